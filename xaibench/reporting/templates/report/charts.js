(() => {
  const { place, short, frame, lines, keys, numbers, figure } = Plots;
  const shown = new Set(DATA.methods.map((_, k) => k));
  const state = { place: MACRO };
  const level = percent(DATA.confidence);
  const draws = [];
  const all = () => draws.forEach((draw) => draw());
  const grid = $("chart-grid");
  const chosen = () => DATA.methods.map((_, k) => k).filter((k) => shown.has(k));
  const say = (list) => list.map(([name, value]) => `${name} ${value}`).join(", ");

  $("chart-controls").append(
    choice("Class of the charts", [MACRO, ...DATA.classes.map((_, c) => c)].map((c) => [c, className(c)]), MACRO, (c) => { state.place = c; all(); }),
    ...(DATA.methods.length ? [legend("Explainers of the charts", shown, all)] : []));

  /* ROC curves: all classes of one run, or one class of all runs. */
  if (DATA.roc.length) {
    const { box, show } = figure("roc", "ROC curves", `Bands: ${level} of resamples of the patients, point by point. Dotted: guessing.`);
    grid.append(box);
    const auc = new Map(DATA.scores.filter((row) => row[0] === null && DATA.metrics[row[2]].key === "roc_auc").map((row) => [`${row[1]}|${row[3]}`, row[4]]));
    draws.push(() => {
      const bandX = Array.from({ length: 101 }, (_, i) => i / 100), many = DATA.runs.length > 1;
      const list = DATA.roc.filter((curve) => state.place === MACRO || curve.class === state.place).map((curve) => {
        const area = auc.get(`${curve.run}|${curve.class}`);
        const name = many ? `${DATA.runs[curve.run].name} · ${DATA.classes[curve.class]}` : DATA.classes[curve.class];
        return { label: `${name} (${format(area, 3)})`, color: `var(--c${curve.class % 8})`, dash: DASHES[(curve.run + (curve.class > 7 ? 1 : 0)) % 6], ...curve, bandX };
      });
      const label = `ROC curves; areas: ${say(list.map((line) => [line.label, ""]))}`;
      show(lines({ x: [0, 1], y: [0, 1], xLabel: "false positive rate", yLabel: "true positive rate", lines: list, chance: { x: [0, 1], y: [0, 1] }, label }),
        keys(list), numbers(["curve", "at 0.05", "at 0.1", "at 0.2"], () => list.map((line) => [line.label, ...[0.05, 0.1, 0.2].map((x) => {
          let last = 0;
          line.x.forEach((value, i) => { if (value <= x + 1e-9) last = line.y[i]; });
          return format(last);
        })])));
    });
  }

  function curveFigure(id, title, caption, empty, make) {
    const { box, show } = figure(id, title, caption);
    grid.append(box);
    draws.push(() => {
      const made = make();
      if (!made.lines.length) return show(h("p", { class: "note" }, empty(state.place)));
      const label = `${title}, ${className(state.place)}: ${say(made.lines.map((line) => [line.label, format(line.y[Math.floor(line.y.length / 2)])]))} in the middle`;
      show(lines({ ...made, label }), keys(made.lines), made.table ? numbers(...made.table) : numbers([made.xLabel, ...made.lines.map((line) => line.label)],
        () => made.lines[0].x.map((x, i) => [short(x), ...made.lines.map((line) => format(line.y[i]))])));
    });
  }
  const none = (c) => (c === MACRO || DATA.boxed.includes(c) ? "No explainer is shown." : `${className(c)} has no boxes, so no map of it can hit.`);

  if (DATA.tolerance.lines.length)
    curveFigure("tolerance", "Hit rate against tolerance", `Over the gallery's pairs: the peak lies in the box or nearer than that (pixels of an image 224 wide). Bands: ${level}. Dotted: a map of noise.`, none, () => {
      const own = DATA.tolerance.lines.filter((line) => line.class === state.place && shown.has(line.m));
      const x = DATA.tolerance.x;
      return { x: [0, x[x.length - 1]], y: [0, 1], xLabel: "tolerance (px)", yLabel: "hit rate",
               lines: own.map((line) => ({ label: DATA.methods[line.m].label, ...look(line.m), ...line, x })),
               chance: own.length ? { x, y: own[0].chance } : null };
    });

  const curves = [...new Set(DATA.metrics.filter((metric) => defined(metric.point)).map((metric) => metric.name))]
    .filter((name) => DATA.metrics.filter((metric) => metric.name === name).length > 2);
  if (curves.includes("visible_in_box") && curves.includes("visible_outside"))
    curveFigure("inside-outside", "Inside against outside the box", `Share of the box and of the rest of the image that is visible, at the same thresholds: up and to the left is better. Bands: ${level}, of the share of the box. Dotted: a map of noise.`, none, () => {
      const at = (name) => DATA.metrics.map((metric, k) => ({ ...metric, k })).filter((metric) => metric.name === name && defined(metric.point)).sort((a, b) => b.point - a.point);
      const row = (k, metric) => DATA.scores.find((score) => score[0] === k && score[2] === metric.k && score[3] === state.place);
      const found = [];
      for (const k of chosen()) {
        const both = at("visible_in_box").map((inside) => [row(k, inside), at("visible_outside").filter((outside) => outside.point === inside.point).map((outside) => row(k, outside))[0]])
          .filter(([inside, outside]) => inside && outside && defined(inside[4]) && defined(outside[4]));
        const column = (i) => both.map(([inside]) => inside[i]);
        if (both.length > 1) found.push({ label: DATA.methods[k].label, ...look(k), x: both.map(([, outside]) => outside[4]), y: column(4), low: column(5), high: column(6) });
      }
      return { x: [0, 1], y: [0, 1], xLabel: "share of the rest visible", yLabel: "share of the box visible", lines: found, chance: { x: [0, 1], y: [0, 1] },
               table: [["method", "outside, inside at each threshold"], () => found.map((line) => [line.label, line.x.map((x, i) => `(${format(x)}, ${format(line.y[i])})`).join(" ")])] };
    });
  for (const name of curves) {
    const points = DATA.metrics.map((metric, k) => ({ ...metric, k })).filter((metric) => metric.name === name).sort((a, b) => a.point - b.point);
    const title = name === "visible_in_box" ? "Visible in the box against threshold" : `${points[0].title} by threshold`;
    curveFigure(`curve-${curves.indexOf(name)}`, title, `Share of the map's largest value that a pixel must exceed. Bands: ${level}. Dotted: a map of noise.`, none, () => {
      const x = points.map((point) => point.point), found = [];
      let chance = null;
      for (const k of chosen()) {
        const own = points.map((point) => DATA.scores.find((row) => row[0] === k && row[2] === point.k && row[3] === state.place));
        if (!own.some(Boolean)) continue;
        const column = (at) => own.map((row) => (row ? row[at] : null));
        found.push({ label: DATA.methods[k].label, ...look(k), x, y: column(4), low: column(5), high: column(6) });
        if (own.some((row) => row && defined(row[7]))) chance = { x, y: column(7) };
      }
      return { x: [Math.min(0, ...x), Math.max(1, ...x)], y: [0, 1], xLabel: "threshold", yLabel: points[0].title.length < 34 ? points[0].title : "score", lines: found, chance };
    });
  }

  /* Cost against score. */
  const headlines = DATA.metrics.map((metric, k) => ({ ...metric, k })).filter((metric) => metric.headline && metric.category !== "classification");
  if (headlines.length && DATA.methods.some((method) => defined(method.ms))) {
    const { box, head, show } = figure("cost", "Cost against score", `Time of the map alone; the forward pass that all share takes ${DATA.runs.map((run) => `${format(run.forward, 1)} ms an image${DATA.runs.length > 1 ? ` (${run.name})` : ""}`).join(", ")}. Bars: ${level}.`);
    let metric = headlines[0];
    const draw = () => {
      const found = chosen().map((k) => ({ k, ms: DATA.methods[k].ms, row: DATA.scores.find((row) => row[0] === k && row[2] === metric.k && row[3] === state.place) }))
        .filter(({ ms, row }) => defined(ms) && row && defined(row[4]));
      if (!found.length) return show(h("p", { class: "note" }, none(state.place)));
      const costs = found.map(({ ms }) => Math.max(ms, 0.001));
      const x = [10 ** Math.floor(Math.log10(Math.min(...costs)) - 0.05), 10 ** Math.ceil(Math.log10(Math.max(...costs)) + 0.05)];
      const ends = found.flatMap(({ row }) => [row[4], row[5], row[6]]).filter(defined);
      const y = defined(metric.range[0]) && defined(metric.range[1]) ? metric.range : [Math.min(...ends), Math.max(...ends)];
      const label = `${metric.title} against milliseconds a map: ${say(found.map(({ k, ms, row }) => [DATA.methods[k].label, `${format(ms)} ms, ${format(row[4])}`]))}`;
      show(place((width) => {
        const { svg, sx, sy, right } = frame(width, Math.round(Math.min(380, Math.max(250, width * 0.62))), { x, y, xLabel: "milliseconds a map", yLabel: metric.title.length < 34 ? metric.title : "score", log: true, label });
        const taken = found.map(({ ms, row }) => [sx(Math.max(ms, 0.001)) - 7, sy(row[4]) - 6, 14, 12]);
        for (const { k, ms, row } of found) {
          const [px, py] = [sx(Math.max(ms, 0.001)), sy(row[4])], { color, mark: kind } = look(k), name = DATA.methods[k].label;
          if (defined(row[5])) svg.append(s("line", { x1: px, x2: px, y1: sy(row[5]), y2: sy(row[6]), stroke: color, "stroke-width": 2, opacity: 0.5 }));
          svg.append(mark(kind, px, py, color, `${name}\n${format(ms)} ms a map\n${metric.title} ${format(row[4])}`));
          const text = name.length > 24 ? `${name.slice(0, 23)}…` : name, wide = 7 * text.length, flip = px + wide + 10 > right;
          const tx = flip ? px - 9 - wide : px + 9;
          const free = (y) => !taken.some(([x, top, w, high]) => tx < x + w && x < tx + wide && y - 10 < top + high && top < y + 3);
          const ty = [4, -10, 18, -24, 32, 46].map((step) => py + step).find(free) || py + 4;
          taken.push([tx, ty - 10, wide, 13]);
          svg.append(s("text", { class: "ink", x: flip ? px - 9 : px + 9, y: ty, "text-anchor": flip ? "end" : "start" }, text));
        }
        return svg;
      }), numbers(["explainer", "ms a map", metric.title], () => found.map(({ k, ms, row }) => [DATA.methods[k].label, format(ms, 3), format(row[4])])));
    };
    head.append(choice("Metric of the cost chart", headlines.map((m) => [m, m.title]), metric, (m) => { metric = m; draw(); }));
    grid.append(box);
    draws.push(draw);
  }

  /* Ranks, and how they move when the patients are drawn anew. */
  if (DATA.rankings.length) {
    const { box, head, about, show } = figure("ranks", "Rank stability", "", true);
    let ranking = DATA.rankings[0];
    const title = (key) => (DATA.metrics.find((metric) => metric.key === key) || { title: key }).title;
    const draw = () => {
      const list = ranking.methods.map((k, i) => ({ k, rank: ranking.ranks[i], low: ranking.low[i], high: ranking.high[i], first: ranking.first[i], shares: ranking.shares[i] }));
      const label = `Ranks by ${title(ranking.metric)}: ${say(list.map(({ k, rank, low, high, first }) => [DATA.methods[k].label, `${short(rank)} (${short(low)} to ${short(high)}), best in ${percent(first || 0)}`]))}`;
      about.textContent = `Rank by the mean over the classes, 1 is best; ${ranking.n} pairs of ${ranking.patients} patients, drawn anew ${ranking.resamples} times. ` +
        `Circles: shares of the draws in which the explainer has that rank; bar: ${level} of the draws; tick: the rank in the run. ` +
        "Truly equal explainers change places at random: for a decision between two read a paired test.";
      show(place((width) => {
        const n = list.length, row = 26, left = Math.min(170, width * 0.3), right = 62, height = 30 + n * row + 4;
        const step = (width - left - right - 28) / Math.max(1, n - 1), sx = (rank) => left + 14 + (rank - 1) * step;
        const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
        for (let rank = 1; rank <= n; rank++)
          svg.append(s("line", { class: "rule", x1: sx(rank), x2: sx(rank), y1: 22, y2: height - 4 }), s("text", { x: sx(rank), y: 14, "text-anchor": "middle" }, String(rank)));
        svg.append(s("text", { x: width - 4, y: 14, "text-anchor": "end" }, "best in"));
        const widest = Math.min(row * 0.42, step / 2);
        list.forEach(({ k, rank, low, high, first, shares }, i) => {
          const y = 22 + i * row + row / 2, { color } = look(k), name = DATA.methods[k].label, room = Math.floor((left - 10) / 6.8);
          const tip = `${name}: rank ${short(rank)}\n${level} of draws: ${short(low)} to ${short(high)}\nbest in ${percent(first || 0)} of draws`;
          shares.forEach((share, at) => { if (share > 0) svg.append(s("circle", { cx: sx(at + 1), cy: y, r: Math.max(0.8, widest * Math.sqrt(share)), fill: color, opacity: 0.3 })); });
          svg.append(s("text", { class: "ink", x: left - 8, y: y + 4, "text-anchor": "end" }, name.length > room ? `${name.slice(0, Math.max(3, room - 1))}…` : name),
            s("line", { x1: sx(low), x2: sx(high), y1: y, y2: y, stroke: color, "stroke-width": 2.4 }),
            s("line", { x1: sx(rank), x2: sx(rank), y1: y - 8, y2: y + 8, stroke: color, "stroke-width": 2.4 }),
            s("text", { class: "ink", x: width - 4, y: y + 4, "text-anchor": "end" }, defined(first) ? percent(first) : "–"),
            s("rect", { x: 0, y: y - row / 2, width, height: row, fill: "transparent", "data-tip": tip }));
        });
        return svg;
      }), numbers(["explainer", "rank", "from", "to", "best in", ...list.map((_, i) => `rank ${i + 1}`)],
        () => list.map(({ k, rank, low, high, first, shares }) => [DATA.methods[k].label, short(rank), short(low), short(high), percent(first || 0), ...shares.map((share) => percent(share || 0))])));
    };
    head.append(choice("Metric of the ranks", DATA.rankings.map((r) => [r, title(r.metric)]), ranking, (r) => { ranking = r; draw(); }));
    grid.append(box);
    draws.push(draw);
  }

  /* Distributions of single pairs' scores, class by class. */
  const spread = [...new Set(DATA.distributions.map((entry) => entry.metric))];
  if (spread.length) {
    const { box, head, show } = figure("spread", "Scores of single maps", "Shape: how many maps score so. Line: 5 to 95%; box: the middle half; white tick: median; dot: mean.", true);
    let key = spread.includes("energy") ? "energy" : spread[0];
    const title = (name) => (DATA.metrics.find((metric) => metric.key === name) || { title: name }).title;
    const draw = () => {
      const places = state.place === MACRO ? DATA.boxed : [state.place];
      const panels = places.map((c) => [c, DATA.distributions.filter((entry) => entry.metric === key && entry.class === c && shown.has(entry.m)).sort((a, b) => a.m - b.m)]).filter(([, list]) => list.length);
      if (!panels.length) return show(h("p", { class: "note" }, none(state.place)));
      show(h("div", { class: "panels" }, ...panels.map(([c, list]) => h("div", {}, h("h4", { class: "name" }, `${className(c)} · ${list[0].n} pairs`), place((width) => ridges(width, list, c))))),
        numbers(["explainer", "class", "pairs", "mean", "5%", "25%", "median", "75%", "95%"], () => panels.flatMap(([c, list]) => list.map((entry) =>
          [DATA.methods[entry.m].label, className(c), String(entry.n), ...[entry.mean, ...entry.q.slice(1, 6)].map((v) => format(v))]))));
    };
    function ridges(width, list, c) {
      const row = 40, left = Math.min(120, width * 0.32), height = list.length * row + 34, [low, high] = list[0].range;
      const sx = (v) => left + ((v - low) / (high - low || 1)) * (width - left - 12);
      const label = `${title(key)}, ${className(c)}; medians: ${say(list.map((entry) => [DATA.methods[entry.m].label, format(entry.q[3])]))}`;
      const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
      for (const v of Plots.ticks(low, high, 4))
        svg.append(s("line", { class: "rule", x1: sx(v), x2: sx(v), y1: 4, y2: height - 24 }), s("text", { x: sx(v), y: height - 8, "text-anchor": "middle" }, short(v)));
      list.forEach((entry, i) => {
        const y = i * row + row - 8, { color } = look(entry.m), most = Math.max(...entry.bins), name = DATA.methods[entry.m].label, room = Math.floor((left - 10) / 6.8);
        const step = (high - low) / entry.bins.length;
        const d = entry.bins.map((count, b) => `L${sx(low + b * step).toFixed(1)},${(y - 24 * count / most).toFixed(1)}H${sx(low + (b + 1) * step).toFixed(1)}`).join("");
        svg.append(s("path", { d: `M${sx(low)},${y}${d}V${y}Z`, fill: color, opacity: 0.22 }),
          s("line", { x1: sx(entry.q[1]), x2: sx(entry.q[5]), y1: y, y2: y, stroke: color, "stroke-width": 1.6 }),
          s("rect", { x: sx(entry.q[2]), y: y - 4, width: Math.max(1, sx(entry.q[4]) - sx(entry.q[2])), height: 8, rx: 2, fill: color }),
          s("line", { x1: sx(entry.q[3]), x2: sx(entry.q[3]), y1: y - 4, y2: y + 4, stroke: "var(--card)", "stroke-width": 2 }),
          s("circle", { cx: sx(entry.mean), cy: y, r: 3, fill: "var(--card)", stroke: color, "stroke-width": 1.8 }),
          s("text", { class: "ink", x: left - 8, y: y + 4, "text-anchor": "end" }, name.length > room ? `${name.slice(0, room - 1)}…` : name),
          s("rect", { x: 0, y: y - row + 10, width, height: row, fill: "transparent", "data-tip": `${name}\nmean ${format(entry.mean)}, median ${format(entry.q[3])}\nmiddle half ${format(entry.q[2])} to ${format(entry.q[4])}\n5 to 95%: ${format(entry.q[1])} to ${format(entry.q[5])}` }));
      });
      return svg;
    }
    head.append(choice("Metric of the distributions", spread.map((name) => [name, title(name)]), key, (name) => { key = name; draw(); }));
    grid.append(box);
    draws.push(draw);
  }
  const narrow = grid.querySelectorAll("figure:not(.wide)");
  if (narrow.length % 2) narrow[narrow.length - 1].classList.add("wide");
  all();
})();

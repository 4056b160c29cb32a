/* The leaderboard: one row a method, one column a metric; sorted by any column. */
(() => {
  const [M, R, K, C, V, LOW, HIGH, CHANCE, N, PATIENTS, NAN, OUT, DEFINED, CLASSES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
  const families = [...new Set(DATA.metrics.map((metric) => metric.category))];
  const family = ["localization", families.find((name) => name !== "classification"), families[0]].find((name) => families.includes(name));
  const state = { place: MACRO, family, bases: true, every: false, sort: null, down: true };
  const index = new Map(DATA.scores.map((row) => [`${row[M]}|${row[R]}|${row[K]}|${row[C]}`, row]));

  function columns() {
    const own = DATA.metrics.map((_, k) => k).filter((k) => DATA.metrics[k].category === state.family);
    const short = own.filter((k) => DATA.metrics[k].headline);
    return state.every || !short.length ? own : short;
  }
  function rows() {
    if (state.family === "classification")
      return DATA.runs.map((run, r) => ({ name: run.name, note: "", key: `null|${r}` }));
    return DATA.methods.map((method, k) => ({ name: method.label, note: method.baseline ? "baseline" : "", key: `${k}|${method.run}`, baseline: method.baseline }))
      .filter((row) => state.bases || !row.baseline);
  }
  const cell = (row, k) => index.get(`${row.key}|${k}|${state.place}`);
  const value = (row, k) => { const found = cell(row, k); return found && defined(found[V]) ? found[V] : null; };

  function bar(score, metric) {
    let [low, high] = metric.range;
    if (!defined(low) || !defined(high)) return null;
    const x = (v) => Math.min(100, Math.max(0, (100 * (v - low)) / (high - low || 1)));
    const parts = [s("rect", { x: 0, y: 4.5, width: 100, height: 3, rx: 1, fill: "var(--track)" })];
    if (defined(score[LOW])) parts.push(s("rect", { x: x(score[LOW]), y: 4.5, width: Math.max(0.6, x(score[HIGH]) - x(score[LOW])), height: 3, fill: "var(--accent)", opacity: 0.45 }));
    if (defined(score[CHANCE])) parts.push(s("rect", { x: x(score[CHANCE]) - 0.4, y: 0.5, width: 0.9, height: 11, fill: "var(--soft)" }));
    parts.push(s("rect", { x: x(score[V]) - 1, y: 2, width: 2, height: 8, rx: 0.6, fill: "var(--accent)" }));
    return s("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" }, ...parts);
  }
  function show(row, k, best, most) {
    const score = cell(row, k), metric = DATA.metrics[k];
    if (!score) return h("td", {}, "–");
    const fewer = state.place === MACRO && defined(score[V]) && score[CLASSES] < most;
    if (!defined(score[V])) return h("td", {}, "undefined");
    const digits = metric.category === "classification" ? 3 : 2;
    const other = score[NAN] && defined(score[DEFINED]) && score[DEFINED] !== score[V] ? format(score[DEFINED], digits) : "";
    const range = defined(score[LOW]) ? `[${format(score[LOW], digits)}, ${format(score[HIGH], digits)}]` : "";
    const about = [`${row.name}, ${metric.title}`, `${className(state.place)}: ${format(score[V], digits)} ${range}`,
                   defined(score[CHANCE]) ? `chance ${format(score[CHANCE], digits)}` : null,
                   `${score[N]} ${score[M] === null ? "images" : "pairs"}, ${score[PATIENTS]} patients` + (score[NAN] ? `, ${score[NAN]} undefined` : ""),
                   other ? `defined maps only ${other}` : null,
                   fewer ? `mean over ${score[CLASSES]} of ${most} classes` : null];
    const remark = [fewer ? `${score[CLASSES]} of ${most} classes` : "", score[NAN] ? `${score[NAN]} undef.${other ? `, else ${other}` : ""}` : ""].filter(Boolean).join(", ");
    return h("td", { "data-tip": about.filter(Boolean).join("\n") },
      h("span", { class: format(score[V], digits) === format(best, digits) ? "value best" : "value" }, format(score[V], digits)),
      score[OUT] ? h("span", { class: "mark", role: "img", "aria-label": "better than chance and blind baselines" }, "▲") : null,
      h("span", { class: "range" }, range), remark ? h("span", { class: "range" }, remark) : null, bar(score, metric));
  }
  function draw() {
    const ks = columns(), list = rows(), keep = document.activeElement && document.activeElement.closest("#board") ? document.activeElement.dataset.key : null;
    if (!ks.includes(state.sort) && state.sort !== "name") { state.sort = ks[0]; state.down = DATA.metrics[ks[0]] ? DATA.metrics[ks[0]].higher : true; }
    list.sort((a, b) => {
      if (state.sort === "name") return (state.down ? -1 : 1) * a.name.localeCompare(b.name);
      const [x, y] = [value(a, state.sort), value(b, state.sort)];
      if (x === null || y === null) return (x === null) - (y === null);
      return state.down ? y - x : x - y;
    });
    const header = (key, text, hint) => {
      const on = state.sort === key;
      const button = h("button", { type: "button", "data-key": String(key) }, h("span", { class: "name" }, text));
      button.addEventListener("click", () => {
        state.down = on ? !state.down : key === "name" ? false : DATA.metrics[key].higher;
        state.sort = key;
        draw();
      });
      return h("th", { scope: "col", "aria-sort": on ? (state.down ? "descending" : "ascending") : "none", "data-tip": hint }, button);
    };
    const best = ks.map((k) => {
      const found = list.map((row) => value(row, k)).filter((v) => v !== null);
      return DATA.metrics[k].higher ? Math.max(...found) : Math.min(...found);
    });
    const most = ks.map((k) => Math.max(...list.map((row) => { const found = cell(row, k); return found ? found[CLASSES] : 0; })));
    $("board").replaceChildren(
      h("caption", { class: "visually-hidden" }, `Scores, ${className(state.place)}, sorted by ${state.sort === "name" ? "name" : (DATA.metrics[state.sort] || { title: "" }).title}`),
      h("thead", {}, h("tr", {}, header("name", state.family === "classification" ? "classifier" : "explainer", null),
        ...ks.map((k) => { const m = DATA.metrics[k]; return header(k, m.title + (defined(m.point) ? ` at ${m.point}` : "") + (m.higher ? "" : " (less is better)"), m.reference); }))),
      h("tbody", {}, ...list.map((row) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: "name" }, row.name), row.note ? h("small", {}, row.note) : null),
        ...ks.map((k, i) => show(row, k, best[i], most[i]))))));
    if (keep) { const again = [...$("board").querySelectorAll("button")].find((button) => button.dataset.key === keep); if (again) again.focus(); }
    const level = percent(DATA.confidence);
    $("board-note").textContent = `Brackets: ${level} intervals. The dark tick on a bar is what a map of noise gets. ` +
      (list.some((row) => ks.some((k) => cell(row, k) && cell(row, k)[NAN])) ? "undef.: pairs without a value, which count as chance where the metric has a level; else: over the others alone. " : "") + DATA.marks.join(" ");
  }
  const places = [...new Set([MACRO, ...DATA.boxed])];
  function controls() {
    const here = state.family === "classification" ? [MACRO, ...DATA.classes.map((_, c) => c)] : places;
    if (!here.includes(state.place)) state.place = MACRO;
    $("board-controls").replaceChildren(
      choice("Class", here.map((c) => [c, className(c)]), state.place, (c) => { state.place = c; draw(); }),
      choice("Metrics", families.map((f) => [f, f]), state.family, (f) => { state.family = f; state.sort = null; controls(); draw(); }),
      check("Baselines", state.bases, (on) => { state.bases = on; draw(); }),
      check("Every point of the curves", state.every, (on) => { state.every = on; draw(); }));
  }
  if (DATA.scores.length) { controls(); draw(); }
  else $("board-note").textContent = "The runs have no scores.";
})();

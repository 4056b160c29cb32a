/* Plots as SVG, drawn to the width that they get; each is described in words and its numbers are in a table. */
const Plots = (() => {
  const watcher = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries)
      if (Math.abs(contentRect.width - (target.drawn || 0)) > 2) target.redraw();
  });

  /* A place that calls draw(width) for its content, now and whenever its width changes. */
  function place(draw) {
    const box = h("div", { class: "plot" });
    box.redraw = () => {
      const width = box.clientWidth;
      if (!width) return;
      box.drawn = width;
      box.replaceChildren(draw(Math.max(260, width)));
    };
    watcher.observe(box);
    return box;
  }
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((size) => size >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(10)));
    return found;
  }
  const short = (value) => String(Number(value.toPrecision(4))).replace("-", "−");

  /* Axes with a grid; returns the svg and the two scales. */
  function frame(width, height, { x, y, xLabel, yLabel, log = false, label, xTicks = null }) {
    const [left, right, top, bottom] = [46, 14, 10, 42];
    const map = log ? Math.log10 : (v) => v;
    const sx = (v) => left + ((map(v) - map(x[0])) / (map(x[1]) - map(x[0]) || 1)) * (width - left - right);
    const sy = (v) => height - bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (height - top - bottom);
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
    for (const v of ticks(y[0], y[1], 5))
      svg.append(s("line", { class: "rule", x1: left, x2: width - right, y1: sy(v), y2: sy(v) }),
                 s("text", { x: left - 7, y: sy(v) + 4, "text-anchor": "end" }, short(v)));
    const marks = xTicks || (log ? decades(x) : ticks(x[0], x[1], Math.max(3, Math.floor(width / 95))));
    for (const v of marks)
      svg.append(s("line", { class: "rule", x1: sx(v), x2: sx(v), y1: top, y2: height - bottom }),
                 s("text", { x: sx(v), y: height - bottom + 17, "text-anchor": "middle" }, short(v)));
    svg.append(s("path", { class: "axis", d: `M${left},${top}V${height - bottom}H${width - right}` }),
               s("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, xLabel),
               s("text", { x: 12, y: (top + height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(top + height - bottom) / 2})` }, yLabel));
    return { svg, sx, sy, left, right: width - right, top, bottom: height - bottom };
  }
  function decades([low, high]) {
    const found = [];
    for (let k = Math.ceil(Math.log10(low) - 1e-9); k <= Math.log10(high) + 1e-9; k++) found.push(10 ** k);
    return found;
  }
  function path(xs, ys, sx, sy) {
    let d = "", pen = "M";
    xs.forEach((x, i) => {
      if (!defined(ys[i])) { pen = "M"; return; }
      d += `${pen}${sx(x).toFixed(1)},${sy(ys[i]).toFixed(1)}`;
      pen = "L";
    });
    return d;
  }
  function band(xs, low, high, sx, sy) {
    const there = xs.map((_, i) => i).filter((i) => defined(low[i]) && defined(high[i]));
    if (there.length < 2) return "";
    const edge = (ys, order) => order.map((i) => `${sx(xs[i]).toFixed(1)},${sy(ys[i]).toFixed(1)}`).join("L");
    return `M${edge(high, there)}L${edge(low, [...there].reverse())}Z`;
  }

  /* Lines with bands. A line: {label, color, dash, x, y, low, high, bandX}; a chance line: {x, y}. */
  function lines(options) {
    return place((width) => {
      const height = Math.round(Math.min(380, Math.max(250, width * 0.62)));
      const { svg, sx, sy, left, right, top, bottom } = frame(width, height, options);
      for (const line of options.lines)
        if (line.low) svg.append(s("path", { d: band(line.bandX || line.x, line.low, line.high, sx, sy), fill: line.color, opacity: options.lines.length > 4 ? 0.09 : 0.15 }));
      if (options.chance) svg.append(s("path", { class: "chance", d: path(options.chance.x, options.chance.y, sx, sy) }));
      for (const line of options.lines)
        svg.append(s("path", { d: path(line.x, line.y, sx, sy), fill: "none", stroke: line.color, "stroke-width": 2.2, "stroke-dasharray": line.dash || null, "stroke-linejoin": "round" }));
      const cursor = s("line", { class: "axis", y1: top, y2: bottom, visibility: "hidden" });
      const cover = s("rect", { x: left, y: top, width: right - left, height: bottom - top, fill: "transparent", "data-plot": "" });
      cover.addEventListener("pointermove", (event) => {
        const scale = width / svg.getBoundingClientRect().width;
        const at = options.x[0] + (((event.clientX - svg.getBoundingClientRect().left) * scale - left) / (right - left)) * (options.x[1] - options.x[0]);
        cursor.setAttribute("x1", sx(at)); cursor.setAttribute("x2", sx(at)); cursor.setAttribute("visibility", "visible");
        const read = options.lines.map((line) => [line.label, nearest(line, at)]).filter(([, y]) => defined(y)).sort((a, b) => b[1] - a[1]);
        tip([`${options.xLabel}: ${short(at)}`, ...read.map(([label, y]) => `${format(y)}  ${label}`)].join("\n"), event);
      });
      cover.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); tip(""); });
      svg.append(cursor, cover);
      return svg;
    });
  }
  /* The curve's value at x, between its points. */
  function nearest(line, at) {
    let i = line.x.findIndex((x) => x >= at);
    if (i < 0) i = line.x.length - 1;
    if (i === 0 || !defined(line.y[i]) || !defined(line.y[i - 1]) || line.x[i] === line.x[i - 1]) return line.y[i];
    const share = (at - line.x[i - 1]) / (line.x[i] - line.x[i - 1]);
    return line.y[i - 1] + Math.min(1, share) * (line.y[i] - line.y[i - 1]);
  }
  function keys(list) {
    return h("ul", { class: "keys" }, ...list.map((line) => h("li", {}, swatch(line), h("span", { class: "cut", title: line.label }, line.label))));
  }
  /* A closed table of a plot's numbers, made when it is opened. */
  function numbers(header, rows) {
    const box = h("div", { tabindex: 0, role: "region", "aria-label": "Numbers of the chart" });
    const details = h("details", { class: "numbers" }, h("summary", {}, "Numbers"), box);
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      box.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ...header.map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, ...rows().map((row) => h("tr", {}, ...row.map((text, k) => h(k ? "td" : "th", k ? {} : { scope: "row" }, text)))))));
    });
    return details;
  }
  function figure(id, title, caption, wide = false) {
    const head = h("div", { class: "head" }, h("h3", { id: `${id}-title` }, title)), body = h("div", {});
    const about = h("figcaption", {}, caption);
    const box = h("figure", { id, class: wide ? "wide" : null, "aria-labelledby": `${id}-title` }, head, body, about);
    return { box, head, about, show: (...parts) => body.replaceChildren(...parts) };
  }
  return { place, ticks, short, frame, lines, keys, numbers, figure };
})();

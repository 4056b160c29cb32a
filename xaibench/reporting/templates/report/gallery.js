/* The gallery: rows of an image and its maps; only those near the window are drawn. */
const Gallery = (() => {
  const { G, SIDE } = Maps;
  const [INDEX, LARGEST, TOP, DISTANCE, PEAK, , VALUES] = [0, 1, 2, 3, 4, 5, 6];
  const shown = new Set(reals.length ? reals : bases);
  const state = { rule: "visible", threshold: 0.5, share: 0.25, tolerance: 0, opacity: 0.8, palette: "signed", scale: "own",
                  place: -1, verdict: "all", of: -1, text: "" };
  const list = $("items");
  const rows = G.items.map((_, i) => h("li", { "data-i": i }));
  const columns = () => DATA.methods.map((_, k) => k).filter((k) => shown.has(k));
  const limits = DATA.methods.map((_, k) => Math.max(0, ...G.items.map((item) => (item.cells[k] ? item.cells[k][LARGEST] * item.cells[k][TOP] : 0))));
  let order = [], at = { row: 0, column: 0 };

  /* true: hit, false: miss, null: the image has no box or the map is undefined. */
  function hit(item, k) {
    const cell = item.cells[k];
    if (!cell || !item.boxes.length || cell[DISTANCE] === null) return null;
    if (state.rule === "peak") return cell[DISTANCE] === 0 || cell[DISTANCE] < state.tolerance;
    const share = shareOf(item, k);
    return share === null ? null : share > state.share;
  }
  function shareOf(item, k) {
    const found = Maps.visible(item.cells[k]);
    return found && found[Math.round(state.threshold * 40)];
  }
  function words(item, k) {
    const cell = item.cells[k];
    if (!cell) return ["none", "no map"];
    if (!item.boxes.length) return ["plain", "no box"];
    const verdict = hit(item, k);
    if (verdict === null) return ["none", "undefined map"];
    const more = state.rule === "peak" ? (cell[DISTANCE] ? `${cell[DISTANCE].toFixed(0)} px off` : "in the box") : `${percent(shareOf(item, k))} of box`;
    return [verdict ? "hit" : "miss", `${verdict ? "hit" : "miss"} · ${more}`];
  }
  function wanted(item) {
    if (state.place >= 0 && item.class !== state.place) return false;
    if (state.text && !`${item.id}\n${DATA.classes[item.class]}`.toLowerCase().includes(state.text)) return false;
    if (state.verdict === "all") return true;
    const ks = state.of >= 0 ? [state.of] : columns(), verdicts = ks.map((k) => hit(item, k));
    if (state.verdict === "plain" || state.verdict === "boxed") return !item.boxes.length === (state.verdict === "plain");
    if (state.verdict === "disagree") { const all = columns().map((k) => hit(item, k)); return all.includes(true) && all.includes(false); }
    return verdicts.includes(state.verdict === "hit");
  }

  /* One picture: X-ray, map, boxes, peak. */
  function view(item, k) {
    const box = h("div", { class: "view" }, h("img", { src: `data:image/webp;base64,${G.thumbs[item.thumb]}`, alt: "", decoding: "async", draggable: "false" }));
    const cell = k === null ? null : item.cells[k];
    if (cell) box.append(h("canvas", { width: SIDE, height: SIDE, "data-k": k }));
    const over = s("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const kind of ["edge", "line"])
      for (const [x, y, width, height] of item.boxes) over.append(s("rect", { class: kind, x, y, width, height }));
    if (cell && cell[PEAK]) {
      const [x, y] = cell[PEAK], r = 0.022, d = `M${x - r},${y - r}L${x + r},${y + r}M${x - r},${y + r}L${x + r},${y - r}`;
      over.append(s("path", { class: "shade", d }), s("path", { class: "cross", d }));
    }
    box.append(over);
    return box;
  }
  function paint(box, item, k) {
    const canvas = box.querySelector("canvas"), cell = item.cells[k];
    if (!canvas || !cell) return null;
    const full = state.scale === "own" || !cell[LARGEST] ? cell[TOP] : limits[k] / cell[LARGEST];
    return Maps.paint(canvas, cell[INDEX], state, full, cell[TOP]);
  }
  function tell(tile, item, k) {
    const [kind, text] = words(item, k), line = tile.querySelector(".verdict");
    line.className = `verdict ${kind}`;
    line.textContent = text;
  }
  function refresh(row) {
    const item = G.items[row.dataset.i];
    for (const tile of row.querySelectorAll("button.tile")) {
      const k = Number(tile.dataset.k);
      if (k >= 0) { tell(tile, item, k); paint(tile, item, k); }
    }
  }
  function build(row) {
    if (row.classList.contains("filled")) return;
    const item = G.items[row.dataset.i], ks = columns();
    const odds = item.p.map((p, r) => (defined(p) ? `${G.runs.length > 1 ? `${G.runs[r]} ` : "p = "}${format(p)}` : null)).filter(Boolean).join(", ");
    const tile = (k, label) => h("button", { type: "button", class: "tile", "data-k": k, tabindex: -1 }, view(item, k < 0 ? null : k), h("span", { class: "cut" }, label), " ",
      h("span", { class: "verdict plain" }, ""), h("span", { class: "visually-hidden" }, `, ${item.id}, ${DATA.classes[item.class]}`));
    const first = tile(-1, "X-ray");
    const boxes = item.boxes.length > 1 ? `${item.boxes.length} boxes` : item.boxes.length ? "1 box" : "no box";
    first.querySelector(".verdict").textContent = boxes;
    row.replaceChildren(h("div", { class: "item-head" }, h("h3", { class: "name" }, DATA.classes[item.class]), h("p", { class: "name" }, odds ? `${item.id} · ${odds}` : item.id)),
      h("div", { class: "tiles" }, first, ...ks.map((k) => tile(k, DATA.methods[k].label))));
    row.classList.add("filled");
    refresh(row);
    focusable();
  }
  function empty(row) {
    if (!row.classList.contains("filled") || row.contains(document.activeElement)) return;
    row.style.setProperty("--h", `${row.offsetHeight}px`);
    row.classList.remove("filled");
    row.replaceChildren();
  }
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) (entry.isIntersecting ? build : empty)(entry.target);
  }, { rootMargin: "700px 0px" });
  const filled = () => [...list.querySelectorAll("li.filled")];

  /* Tiles: the list is one stop of the Tab key; arrows move inside. */
  function tileAt(row, column) {
    const li = rows[order[row]];
    if (!li) return null;
    build(li);
    const tiles = li.querySelectorAll("button.tile");
    return tiles[Math.min(column, tiles.length - 1)] || null;
  }
  function focusable() {
    for (const tile of list.querySelectorAll('button.tile[tabindex="0"]')) tile.tabIndex = -1;
    const li = rows[order[at.row]], tiles = li ? li.querySelectorAll("button.tile") : [];
    if (tiles.length) tiles[Math.min(at.column, tiles.length - 1)].tabIndex = 0;
  }
  function move(rowStep, columnStep) {
    at.row = Math.min(order.length - 1, Math.max(0, at.row + rowStep));
    at.column = Math.min(columns().length, Math.max(0, at.column + columnStep));
    return tileAt(at.row, at.column);
  }
  const STEPS = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], Home: [-1e9, 0], End: [1e9, 0], PageDown: [5, 0], PageUp: [-5, 0] };
  list.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const tile = move(...step);
    if (!tile) return;
    focusable();
    tile.closest("li").scrollIntoView({ block: "nearest" });
    tile.focus({ preventScroll: true });
    tile.scrollIntoView({ block: "nearest" });
  });
  list.addEventListener("focusin", (event) => {
    const tile = event.target.closest("button.tile");
    if (!tile) return;
    const li = tile.closest("li");
    at = { row: order.indexOf(Number(li.dataset.i)), column: [...li.querySelectorAll("button.tile")].indexOf(tile) };
    focusable();
  });
  list.addEventListener("click", (event) => {
    const tile = event.target.closest("button.tile");
    if (tile) Detail.open(order.indexOf(Number(tile.closest("li").dataset.i)), Number(tile.dataset.k));
  });

  function filter() {
    const before = order;
    order = G.items.map((_, i) => i).filter((i) => wanted(G.items[i]));
    if (before.length !== order.length || before.some((i, n) => i !== order[n])) {
      list.replaceChildren(...order.map((i) => rows[i]));
      at = { row: 0, column: Math.min(at.column, columns().length) };
      focusable();
    }
    $("status").textContent = order.length ? `${order.length.toLocaleString("en")} of ${G.items.length.toLocaleString("en")} pairs shown` : "No pair matches: loosen a filter.";
  }
  /* What maps of uniform noise would hit at these settings: a share of the pairs, null where it is not known. */
  function chance(boxed) {
    if (state.rule === "visible") return 1 - state.threshold > state.share ? 1 : 0; // noise shows 1 - threshold of any box
    const at = Math.round(state.tolerance / 2.5), levels = boxed.map((item) => DATA.tolerance.lines.find((line) => line.class === item.class));
    return levels.length && levels.every(Boolean) ? levels.reduce((sum, line) => sum + line.chance[at], 0) / levels.length : null;
  }
  function noise(own) {
    const level = chance(own.filter((item) => item.boxes.length));
    if (level === null || !own.some((item) => item.boxes.length)) return [];
    return [h("div", { class: "count", "data-chance": level.toFixed(4) }, h("p", {}, h("span", { class: "cut" }, "chance"), h("span", {}, `maps of noise: ${percent(level)}`)),
      s("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, s("rect", { width: 100, height: 6, rx: 1, fill: "var(--track)" }), s("rect", { width: 100 * level, height: 6, rx: 1, fill: "var(--soft)" })))];
  }
  function count() {
    const own = G.items.filter((item) => state.place < 0 || item.class === state.place);
    $("counts").replaceChildren(...columns().map((k) => {
      const verdicts = own.map((item) => hit(item, k)).filter((v) => v !== null), hits = verdicts.filter(Boolean).length;
      const share = verdicts.length ? hits / verdicts.length : 0;
      return h("div", { class: "count", "data-k": k, "data-hits": hits }, h("p", {}, h("span", { class: "cut", title: DATA.methods[k].label }, DATA.methods[k].label),
        h("span", {}, verdicts.length ? `${hits} of ${verdicts.length} hit, ${percent(share)}` : own.some((item) => item.boxes.length) ? "undefined" : "no box")),
        s("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, s("rect", { width: 100, height: 6, rx: 1, fill: "var(--track)" }), s("rect", { width: 100 * share, height: 6, rx: 1, fill: look(k).color })));
    }), ...noise(own));
  }
  let queued = false;
  function update() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      count();
      filter();
      filled().forEach(refresh);
      Maps.key(document.querySelector("#tools .key canvas"), state);
      Detail.refresh();
    });
  }
  function rebuild() {
    list.style.setProperty("--tiles", columns().length + 1);
    rows.forEach((row) => { row.style.removeProperty("--h"); row.classList.remove("filled"); row.replaceChildren(); watcher.unobserve(row); });
    rows.forEach((row) => watcher.observe(row));
    update();
  }

  function slider(id, label, key, max, step, show) {
    const output = h("output", { for: id }, show(state[key]));
    const input = h("input", { type: "range", id, min: 0, max, step, value: state[key], "aria-valuetext": show(state[key]) });
    input.addEventListener("input", () => {
      state[key] = Number(input.value);
      output.textContent = show(state[key]);
      input.setAttribute("aria-valuetext", show(state[key]));
      update();
    });
    return h("div", { class: "field" }, h("label", { for: id }, label, output), input);
  }
  const set = (key) => (value) => { state[key] = value; update(); };
  const search = h("input", { type: "search", placeholder: "Image or class" });
  search.addEventListener("input", () => { state.text = search.value.trim().toLowerCase(); update(); });
  const present = [...new Set(G.items.map((item) => item.class))].sort((a, b) => a - b);
  const share = slider("share", "Visible in more than", "share", 0.95, 0.05, (v) => `${percent(v)} of the box`), tolerance = slider("near", "Tolerance", "tolerance", 50, 2.5, (v) => `${v} px at ${G.reference}`);
  const rules = () => { share.hidden = state.rule !== "visible"; share.style.display = share.hidden ? "none" : ""; tolerance.style.display = share.hidden ? "" : "none"; };
  const more = h("div", { class: "more" },
    h("label", { class: "field" }, "Search", search),
    choice("A hit is", [["visible", "map visible in the box"], ["peak", "peak in the box"]], "visible", (rule) => { state.rule = rule; rules(); update(); }),
    share, tolerance,
    choice("Colours", [["signed", "red for, green against"], ["cividis", "cividis, positive part"], ["jet", "jet, as in old papers"]], "signed", set("palette")),
    choice("Full colour at", [["own", "each map's largest value"], ["all", "the explainer's largest"]], "own", set("scale")),
    legend("Explainers in the gallery", shown, rebuild));
  $("tools").append(
    choice("Gallery class", [[-1, "all classes"], ...present.map((c) => [c, DATA.classes[c]])], -1, set("place")),
    choice("Show", [["all", "all pairs"], ["hit", "hits"], ["miss", "misses"], ["disagree", "explainers disagree"], ["boxed", "images with a box"], ["plain", "images without a box"]], "all", set("verdict")),
    choice("Hit or miss of", [[-1, "any explainer"], ...DATA.methods.map((method, k) => [k, method.label])], -1, set("of")),
    slider("threshold", "Threshold", "threshold", 0.975, 0.025, (v) => v.toFixed(3).replace(/0$/, "")), slider("opacity", "Opacity", "opacity", 1, 0.05, percent),
    h("div", { class: "key" }, h("span", {}, "against"), h("canvas", { width: 256, height: 8, role: "img", "aria-label": "Colour bar from full evidence against the class to full evidence for it" }), h("span", {}, "for")),
    h("details", {}, h("summary", {}, "Hit rule, colours, search, explainers"), more));
  rules();
  requestAnimationFrame(() => setTimeout(rebuild));
  return { state, view, paint, words, columns, VALUES, tileAt, item: (row) => G.items[order[row]], length: () => order.length,
           place: (row, k) => { at = { row, column: columns().indexOf(k) + 1 }; const tile = tileAt(at.row, at.column); focusable(); return tile; } };
})();

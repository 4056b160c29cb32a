/* One pair, large: the X-ray, one map, its scores; arrows go on. */
const Detail = (() => {
  const dialog = $("detail");
  let row = 0, k = -1;

  function scores(item) {
    const cell = k >= 0 ? item.cells[k] : null;
    const lines = cell ? Object.entries(cell[Gallery.VALUES]).map(([key, value]) => {
      const metric = DATA.metrics.find((known) => known.key === key);
      return [metric ? metric.title + (defined(metric.point) ? ` at ${metric.point}` : "") : key, value === null ? "undefined" : format(value, 3)];
    }) : [];
    if (cell) lines.push(["Largest absolute value", format(cell[1], 3)]);
    item.p.forEach((p, r) => { if (defined(p)) lines.push([`Probability of the class${item.p.length > 1 ? `, ${DATA.runs[r].name}` : ""}`, format(p, 3)]); });
    return h("dl", { class: "facts" }, ...lines.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }
  function draw() {
    const item = Gallery.item(row);
    if (!item) return dialog.close();
    const focus = document.activeElement && document.activeElement.dataset.step;
    const button = (text, step) => { const b = h("button", { type: "button", "data-step": step.join() }, text); b.addEventListener("click", () => go(...step)); return b; };
    const close = h("button", { type: "button", "data-step": "close" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const map = k >= 0 ? h("div", {}, Gallery.view(item, k), h("p", { class: "verdict" }, "")) : null;
    dialog.replaceChildren(
      h("div", { class: "detail-head" }, h("h2", { id: "detail-title", class: "name" }, `${DATA.classes[item.class]}${k >= 0 ? ` · ${DATA.methods[k].label}` : ""}`), close),
      h("p", { class: "note name" }, `${item.id} (${row + 1} of ${Gallery.length()})`),
      h("div", { class: "buttons" }, button("Previous explainer", [0, -1]), button("Next explainer", [0, 1]), button("Previous image", [-1, 0]), button("Next image", [1, 0])),
      h("div", { class: "pair" }, h("div", {}, Gallery.view(item, null), h("p", { class: "verdict plain" }, "X-ray")), map),
      scores(item));
    if (focus) { const again = [...dialog.querySelectorAll("[data-step]")].find((b) => b.dataset.step === focus); if (again) again.focus(); }
    refresh();
  }
  function refresh() {
    if (!dialog.open || k < 0) return;
    const item = Gallery.item(row), box = dialog.querySelectorAll(".view")[1];
    if (!item || !box) return;
    const [kind, text] = Gallery.words(item, k), line = box.nextElementSibling;
    line.className = `verdict ${kind}`;
    line.textContent = text;
    Gallery.paint(box, item, k);
  }
  function go(rowStep, columnStep) {
    const ks = [-1, ...Gallery.columns()];
    row = Math.min(Gallery.length() - 1, Math.max(0, row + rowStep));
    k = ks[Math.min(ks.length - 1, Math.max(0, ks.indexOf(k) + columnStep))];
    draw();
  }
  const STEPS = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  dialog.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    go(...step);
  });
  dialog.addEventListener("close", () => { const tile = Gallery.place(row, k); if (tile) { tile.focus(); tile.scrollIntoView({ block: "nearest" }); } });
  return { open: (place, method) => { row = place; k = method; dialog.showModal(); draw(); }, refresh };
})();

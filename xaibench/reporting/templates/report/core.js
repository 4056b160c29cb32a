const DATA = JSON.parse(document.getElementById("data").textContent);
const MACRO = DATA.classes.length;
const SVG = "http://www.w3.org/2000/svg";

/* Makes an element: h("p", {class: "note"}, "text", child). Text is always text; nothing is parsed as HTML. */
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const $ = (id) => document.getElementById(id);
const defined = (value) => value !== null && value !== undefined;

function format(value, digits = 2) {
  if (!defined(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(1).replace("-", "−");
  if (size >= 100) return Math.round(value).toLocaleString("en");
  return value.toFixed(digits).replace("-", "−");
}
const percent = (share) => `${Math.round(100 * share)}%`;
const className = (place) => (place === MACRO ? "mean over classes" : DATA.classes[place]);

/* A method's colour, dash and mark; baselines are grey, and nothing is told by colour alone. */
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "5 2 1 2 1 2"];
const reals = DATA.methods.map((_, k) => k).filter((k) => !DATA.methods[k].baseline);
const bases = DATA.methods.map((_, k) => k).filter((k) => DATA.methods[k].baseline);
function look(k) {
  const own = DATA.methods[k].baseline ? bases.indexOf(k) : reals.indexOf(k);
  const turn = Math.floor(own / 8);
  return DATA.methods[k].baseline
    ? { color: "var(--base)", dash: DASHES[1 + (own % 5)], mark: own + 3 }
    : { color: `var(--c${own % 8})`, dash: turn ? DASHES[turn % 6] : DASHES[0], mark: own };
}
/* Six marks of about one size. */
function mark(kind, x, y, color, label) {
  const r = 5, paths = [
    `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    `M${x},${y - r - 1}L${x + r + 1},${y + r}H${x - r - 1}z`,
    `M${x},${y - r - 1.5}L${x + r + 1.5},${y}L${x},${y + r + 1.5}L${x - r - 1.5},${y}z`,
    `M${x},${y + r + 1}L${x + r + 1},${y - r}H${x - r - 1}z`,
    `M${x - r},${y - 1.7}h${r - 1.7}v${1.7 - r}h3.4v${r - 1.7}h${r - 1.7}v3.4h${1.7 - r}v${r - 1.7}h-3.4v${1.7 - r}h${1.7 - r}z`,
  ];
  return s("path", { d: paths[kind % 6], fill: color, stroke: "var(--card)", "stroke-width": 1.5, "data-tip": label });
}
function swatch(style) {
  return s("svg", { width: 26, height: 10, viewBox: "0 0 26 10", "aria-hidden": "true" },
    s("line", { x1: 1, x2: 25, y1: 5, y2: 5, stroke: style.color, "stroke-width": 3, "stroke-dasharray": style.dash || null }));
}

/* A labelled select; options are [value, text]. */
let made = 0;
function choice(label, options, value, change) {
  const id = `choice-${made++}`, select = h("select", { id },
    ...options.map(([key, text]) => h("option", { value: String(key), selected: key === value }, text)));
  select.addEventListener("change", () => change(options[select.selectedIndex][0]));
  return h("div", { class: "field" }, h("label", { for: id }, label), select);
}
function check(label, value, change) {
  const box = h("input", { type: "checkbox", checked: value });
  box.addEventListener("change", () => change(box.checked));
  return h("label", { class: "check" }, box, label);
}
/* Buttons that show and hide methods; `shown` is a Set of indices. */
function legend(title, shown, change) {
  return h("fieldset", { class: "legend" }, h("legend", {}, title),
    ...DATA.methods.map((method, k) => {
      const button = h("button", { type: "button", "aria-pressed": String(shown.has(k)), title: method.label },
        swatch(look(k)), h("span", { class: "cut" }, method.label));
      button.addEventListener("click", () => {
        if (!shown.delete(k)) shown.add(k);
        button.setAttribute("aria-pressed", String(shown.has(k)));
        change();
      });
      return button;
    }));
}

/* Tips: whatever carries data-tip shows it under the pointer. */
function tip(text, event) {
  const box = $("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const { width, height } = box.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 6))}px`;
}
document.addEventListener("pointermove", (event) => {
  const target = event.target instanceof Element ? event.target.closest("[data-tip], [data-plot]") : null;
  if (!target) tip("");
  else if (target.hasAttribute("data-tip")) tip(target.getAttribute("data-tip"), event);
});

/* The theme: as the system has it, or as chosen; print is always light. */
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)"), order = ["auto", "light", "dark"];
  let theme = "auto";
  function show() {
    document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
    $("theme").textContent = `Theme: ${theme}`;
  }
  $("theme").addEventListener("click", () => { theme = order[(order.indexOf(theme) + 1) % 3]; show(); });
  dark.addEventListener("change", show);
  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; });
  addEventListener("afterprint", show);
  show();
})();

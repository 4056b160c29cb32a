/* Maps: small grey PNGs, enlarged, coloured and cut off at a threshold on a canvas. */
const Maps = (() => {
  const G = JSON.parse($("gallery-data").textContent), SIDE = 128, KEPT = 600;
  const grey = new Map();
  let scratch = null;

  /* The map's grey levels at SIDE x SIDE; 128 is 0, 255 the largest absolute value. */
  function levels(index) {
    let found = grey.get(index);
    if (found) { grey.delete(index); grey.set(index, found); return found; }
    found = (async () => {
      const image = new Image();
      image.src = `data:image/png;base64,${G.maps[index]}`;
      await image.decode();
      if (!scratch) {
        const canvas = h("canvas", { width: SIDE, height: SIDE });
        scratch = canvas.getContext("2d", { willReadFrequently: true });
        scratch.imageSmoothingQuality = "high";
      }
      scratch.drawImage(image, 0, 0, SIDE, SIDE);
      const data = scratch.getImageData(0, 0, SIDE, SIDE).data, made = new Uint8Array(SIDE * SIDE);
      for (let i = 0; i < made.length; i++) made[i] = data[4 * i];
      return made;
    })();
    grey.set(index, found);
    if (grey.size > KEPT) grey.delete(grey.keys().next().value);
    return found;
  }

  const mix = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);
  const between = (stops) => (t) => { const at = Math.min(t, 0.99999) * (stops.length - 1), i = Math.floor(at); return mix(stops[i], stops[i + 1], at - i); };
  const cividis = between([[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]]);
  const jet = between([[0, 0, 128], [0, 0, 255], [0, 128, 255], [0, 255, 255], [128, 255, 128], [255, 255, 0], [255, 128, 0], [255, 0, 0], [128, 0, 0]]);
  /* share in [-1, 1] of full colour to [r, g, b, opacity] */
  const PALETTES = {
    signed: (t) => (t >= 0 ? [...mix([255, 158, 26], [237, 8, 8], t), 0.95 * t] : [0, 158, 115, -0.5 * t]),
    cividis: (t) => (t > 0 ? [...cividis(t), 0.9] : [0, 34, 78, 0.9]),
    jet: (t) => [...jet(Math.max(0, t)), 0.75],
  };

  /* Colours of the 256 grey levels. `full` is the share of the largest absolute value that gets the full colour, `top` that of
     the largest value: the threshold is a share of it. */
  function table({ palette, opacity, threshold }, full, top) {
    const out = new Uint8ClampedArray(1024), paint = PALETTES[palette];
    for (let g = 0; g < 256; g++) {
      const value = (g - 128) / 127;
      const hidden = value === 0 && palette === "signed" ? true : threshold > 0 && !(top > 0 && Math.abs(value) / top > threshold);
      if (hidden || full <= 0) continue;
      const [r, green, b, a] = paint(Math.max(-1, Math.min(1, value / full)));
      out.set([r, green, b, 255 * Math.min(1, a * opacity)], 4 * g);
    }
    return out;
  }
  async function paint(canvas, index, look, full, top) {
    const wanted = (canvas.wanted = {});
    const found = await levels(index);
    if (canvas.wanted !== wanted) return;
    const colours = table(look, full, top), context = canvas.getContext("2d"), picture = context.createImageData(SIDE, SIDE), data = picture.data;
    for (let i = 0; i < found.length; i++) {
      const from = 4 * found[i], to = 4 * i;
      data[to] = colours[from]; data[to + 1] = colours[from + 1]; data[to + 2] = colours[from + 2]; data[to + 3] = colours[from + 3];
    }
    context.putImageData(picture, 0, 0);
    canvas.dataset.painted = `${look.palette} ${look.opacity} ${look.threshold}`;
  }
  function key(canvas, look) {
    const context = canvas.getContext("2d"), picture = context.createImageData(256, 1), colours = table(look, 1, 1);
    for (let g = 0; g < 256; g++) {
      const a = colours[4 * g + 3] / 255;
      for (let c = 0; c < 3; c++) picture.data[4 * g + c] = 90 * (1 - a) + colours[4 * g + c] * a;
      picture.data[4 * g + 3] = 255;
    }
    for (let y = 0; y < canvas.height; y++) context.putImageData(picture, 0, y);
  }

  /* A map's shares of the box visible at G.thresholds, unpacked once. */
  const shares = new Map();
  function visible(cell) {
    if (!cell || !cell[5]) return null;
    let found = shares.get(cell);
    if (!found) {
      const bytes = Uint8Array.from(atob(cell[5]), (c) => c.charCodeAt(0)), view = new DataView(bytes.buffer);
      found = Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true) / 65535);
      shares.set(cell, found);
    }
    return found;
  }
  return { G, SIDE, paint, key, visible };
})();

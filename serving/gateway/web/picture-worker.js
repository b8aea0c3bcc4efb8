// Holds the pixels of a frame, smaller copies of them, and makes tiles of what is looked at.

let levels = []; // of the frame itself first, then half the size each
let channels = 1;
let table = new Uint8Array(256);

onmessage = ({ data }) => {
  if (data.pixels) return hold(data);
  if (data.range) return makeTable(data.range);
  const { id, level, x, y, size } = data;
  const tile = rendered(levels[level], x * size, y * size, size);
  postMessage({ id, ...tile }, [tile.rgba.buffer]);
};

/** Take the pixels [height, width, channels] and halve them until they fit one tile. */
function hold({ pixels, height, width, channels: count, size }) {
  channels = count;
  levels = [{ values: pixels, height, width }];
  while (Math.max(levels.at(-1).height, levels.at(-1).width) > size) levels.push(halved(levels.at(-1)));
  postMessage({ levels: levels.length });
}

/** Means of 2 x 2 pixels; at an odd edge the last pixel stands for the missing one. */
function halved({ values, height, width }) {
  const h = Math.ceil(height / 2), w = Math.ceil(width / 2), row = width * channels;
  const half = new values.constructor(h * w * channels);
  for (let y = 0, to = 0; y < h; y++) {
    const top = 2 * y * row, bottom = Math.min(2 * y + 1, height - 1) * row;
    for (let x = 0; x < w; x++) {
      const left = 2 * x * channels, right = Math.min(2 * x + 1, width - 1) * channels;
      for (let c = 0; c < channels; c++) {
        const sum = values[top + left + c] + values[top + right + c] + values[bottom + left + c] + values[bottom + right + c];
        half[to++] = (sum + 2) >> 2;
      }
    }
  }
  return { values: half, height: h, width: w };
}

/** What each value is shown as, black at the first of the range and white at the second. */
function makeTable([black, white]) {
  const wide = levels[0].values instanceof Uint16Array ? 65536 : 256;
  table = new Uint8Array(wide);
  const step = 255 / Math.max(white - black, 1e-9);
  for (let value = 0; value < wide; value++) table[value] = Math.min(255, Math.max(0, (value - black) * step));
}

function rendered({ values, height, width }, left, top, size) {
  const w = Math.min(size, width - left), h = Math.min(size, height - top);
  const rgba = new Uint8ClampedArray(w * h * 4);
  const grey = channels === 1;
  for (let y = 0, to = 0; y < h; y++) {
    let from = ((top + y) * width + left) * channels;
    for (let x = 0; x < w; x++, from += channels, to += 4) {
      rgba[to] = table[values[from]];
      rgba[to + 1] = grey ? rgba[to] : table[values[from + 1]];
      rgba[to + 2] = grey ? rgba[to] : table[values[from + 2]];
      rgba[to + 3] = 255;
    }
  }
  return { rgba, width: w, height: h };
}

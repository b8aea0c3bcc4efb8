// The nuclei of one result: their outlines and features, and which lie where.

const CELL = 256;
const worker = new Worker("/web/nuclei-worker.js");
const waiting = new Map();
let asked = 0;

worker.onmessage = ({ data }) => {
  const [resolve] = waiting.get(data.id);
  waiting.delete(data.id);
  resolve(data);
};
worker.onerror = (event) => {
  event.preventDefault();
  for (const [, reject] of waiting.values()) reject(new Error("the result is too large for this browser"));
  waiting.clear();
};

function ask(message, transfer = []) {
  const id = asked++;
  return new Promise((resolve, reject) => {
    waiting.set(id, [resolve, reject]);
    worker.postMessage({ id, ...message }, transfer);
  });
}

export class Nuclei {
  #cells = new Map();

  /** Read an answer of /v1/segment in GeoJSON: a Blob, and the model, version and options that it is of. */
  static async of({ blob, model, version, options }) {
    const geojson = await blob.arrayBuffer();
    return Object.assign(new Nuclei(await ask({ geojson }, [geojson])), { model, version, options });
  }

  constructor(read) {
    Object.assign(this, read);
    this.discarded = new Uint8Array(this.count);
    this.brushed = null; // Uint8Array once a range of a feature is chosen
    this.matched = null; // Uint8Array once it is compared with another
    this.selected = -1;
    for (let row = 0; row < this.count; row++) {
      const [x0, y0, x1, y1] = this.boxes.subarray(4 * row, 4 * row + 4);
      this.#each(x0, y0, x1, y1, (key) => {
        if (this.#cells.has(key)) this.#cells.get(key).push(row);
        else this.#cells.set(key, [row]);
      });
    }
  }

  #each(x0, y0, x1, y1, use) {
    for (let y = Math.floor(y0 / CELL); y * CELL <= y1; y++)
      for (let x = Math.floor(x0 / CELL); x * CELL <= x1; x++) use(y * 65536 + x);
  }

  get kept() { return this.count - this.discarded.reduce((sum, one) => sum + one, 0); }

  /** The rows of those whose boxes touch a part of the frame. */
  within(x0, y0, x1, y1) {
    const cells = (x1 - x0) * (y1 - y0) / CELL / CELL;
    if (cells > this.#cells.size) return Array.from({ length: this.count }, (_, row) => row);
    const rows = new Set();
    this.#each(Math.max(0, x0), Math.max(0, y0), x1, y1, (key) => {
      for (const row of this.#cells.get(key) ?? []) rows.add(row);
    });
    return [...rows];
  }

  /** The row of the nucleus at a place of the frame, -1 where there is none. */
  at(x, y) {
    for (const row of this.#cells.get(Math.floor(y / CELL) * 65536 + Math.floor(x / CELL)) ?? []) {
      const box = this.boxes.subarray(4 * row, 4 * row + 4);
      if (x >= box[0] && y >= box[1] && x < box[2] && y < box[3] && this.#holds(row, x, y)) return row;
    }
    return -1;
  }

  #holds(row, x, y) {
    let inside = false;
    for (let ring = this.parts[row]; ring < this.parts[row + 1]; ring++) {
      const first = this.rings[ring], end = this.rings[ring + 1];
      for (let at = first, before = end - 1; at < end; before = at++) {
        const xa = this.points[2 * at], ya = this.points[2 * at + 1];
        const xb = this.points[2 * before], yb = this.points[2 * before + 1];
        if (ya > y !== yb > y && x < ((xb - xa) * (y - ya)) / (yb - ya) + xa) inside = !inside;
      }
    }
    return inside;
  }

  /** Add the outline of a nucleus to a path; with a step above 1, some of its points. */
  trace(path, row, step) {
    for (let ring = this.parts[row]; ring < this.parts[row + 1]; ring++) {
      const first = this.rings[ring], end = this.rings[ring + 1];
      const each = Math.min(step, Math.max(1, (end - first) >> 3)); // eight points are round enough
      path.moveTo(this.points[2 * first], this.points[2 * first + 1]);
      for (let at = first + each; at < end; at += each) path.lineTo(this.points[2 * at], this.points[2 * at + 1]);
      path.closePath();
    }
  }

  /** Labels of the discarded ones, as the API takes them: `3,7,10-19`. */
  discardedLabels() {
    const ranges = [];
    for (let row = 0; row < this.count; row++) {
      if (!this.discarded[row]) continue;
      const label = this.labels[row], last = ranges.at(-1);
      if (last && last[1] === label - 1) last[1] = label;
      else ranges.push([label, label]);
    }
    return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
  }

  /** Find out which nuclei this result and another have in common. */
  async compareWith(other) {
    const { a, b } = await ask({ match: [this.id, other.id] });
    this.matched = a;
    other.matched = b;
  }

  /** Free what the worker holds of it. */
  close() { worker.postMessage({ forget: this.id }); }
}

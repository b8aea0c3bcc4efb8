// A histogram of one feature, of which a range is chosen by dragging.

const SVG = "http://www.w3.org/2000/svg";
const HIGH = 130, FLOOR = 112, BINS = 36;

function make(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A number with about three digits. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  return new Intl.NumberFormat("en", { maximumSignificantDigits: Math.abs(value) >= 1000 ? 5 : 3, useGrouping: false }).format(value);
}

export class Histogram {
  #element;
  #changed;
  #span = [0, 1];
  #wide = 330;

  /** @param {(range: [number, number] | null) => void} changed is told of a range that is dragged. */
  constructor(element, changed) {
    this.#element = element;
    this.#changed = changed;
  }

  /**
   * Draw it.
   *
   * @param {Float64Array} values
   * @param {Uint8Array} left those that are left out.
   * @param {[number, number] | null} range the chosen one.
   * @param {string} name of the feature.
   */
  draw(values, left, range, name) {
    let lo = Infinity, hi = -Infinity;
    for (const value of values) if (value < lo) lo = value;
    for (const value of values) if (value > hi) hi = value;
    if (!(lo < hi)) { hi = Number.isFinite(lo) ? lo + 1 : 1; lo = Number.isFinite(lo) ? lo : 0; }
    this.#span = [lo, hi];
    const counts = new Uint32Array(BINS), width = (hi - lo) / BINS;
    const wide = this.#wide = this.#element.clientWidth || this.#wide;
    values.forEach((value, row) => {
      if (!Number.isNaN(value) && !left[row]) counts[Math.min(BINS - 1, Math.floor((value - lo) / width))]++;
    });
    const most = Math.max(1, ...counts), step = wide / BINS;
    const svg = make("svg", { viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": `Histogram of ${name}, from ${short(lo)} to ${short(hi)}, at most ${most} in one of ${BINS} bins` });
    counts.forEach((count, bin) => {
      const high = count / most * (FLOOR - 8), middle = lo + (bin + 0.5) * width;
      const inside = range && middle >= range[0] && middle <= range[1];
      svg.append(make("rect", { class: inside ? "bin in" : "bin", x: bin * step + 0.5, y: FLOOR - high, width: step - 1, height: high }));
    });
    svg.append(make("line", { x1: 0, x2: wide, y1: FLOOR, y2: FLOOR }));
    svg.append(make("text", { x: 0, y: HIGH - 4 }, short(lo)), make("text", { x: wide, y: HIGH - 4, "text-anchor": "end" }, short(hi)));
    svg.append(make("text", { x: wide / 2, y: HIGH - 4, "text-anchor": "middle" }, short((lo + hi) / 2)));
    this.#brush(svg, range);
    this.#element.replaceChildren(svg);
    this.#drag(svg);
  }

  #brush(svg, range) {
    svg.querySelector(".brush")?.remove();
    if (!range) return;
    const [lo, hi] = this.#span;
    const place = (value) => Math.min(1, Math.max(0, (value - lo) / (hi - lo))) * this.#wide;
    svg.prepend(make("rect", { class: "brush", x: place(range[0]), y: 0, width: Math.max(1, place(range[1]) - place(range[0])), height: FLOOR }));
  }

  #drag(svg) {
    const value = (event) => {
      const { left, width } = svg.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (event.clientX - left) / width));
      return this.#span[0] + share * (this.#span[1] - this.#span[0]);
    };
    svg.onpointerdown = (event) => {
      event.preventDefault();
      const first = value(event);
      let range = null;
      const move = (moved) => {
        const second = value(moved);
        range = [Math.min(first, second), Math.max(first, second)];
        this.#brush(svg, range);
      };
      const end = () => {
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", end);
        removeEventListener("pointercancel", end);
        this.#changed(range); // a click chooses nothing
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", end);
      addEventListener("pointercancel", end);
    };
  }
}

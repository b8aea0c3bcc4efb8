// The frames that were opened: which is shown, what was found in the others, and all their results.

import { downloadZip } from "./vendor/client-zip.js";

const get = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

/**
 * One file. `chosen` is what of it (channel, plane, project), `answering` the request for its nuclei
 * with its result once it came, `discarded` a flag for each nucleus, or null.
 */
export class Frame {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted picture";
    this.chosen = {};
    this.channels = null; // their names, once the server has said that there are several
    this.forget();
  }

  /** What was found is no longer so: it is asked for again. */
  forget() {
    this.answering?.controller.abort();
    Object.assign(this, { answering: null, state: "waiting", error: "", found: null, discarded: null, discard: "", kept: 0 });
  }
}

export class Frames {
  #list = get("frame-list");
  #rows = new Map();
  #stepping = false;

  /** @param {object} on what happens: show(frame), find(frame), which resolves to its result. */
  constructor(on) {
    this.on = on;
    this.all = [];
    this.shown = null;
    this.#list.onclick = (event) => {
      const row = event.target.closest("li");
      if (row) this.on.show(this.all[[...this.#list.children].indexOf(row)]);
    };
    this.#list.onkeydown = (event) => this.#key(event);
  }

  add(files) {
    const added = [...files].map((file) => new Frame(file));
    for (const frame of added) {
      const row = make("li", {}, make("span", { className: "name", textContent: frame.name }), make("span", { className: "state" }));
      row.setAttribute("role", "option");
      this.#rows.set(frame, row);
      this.#list.append(row);
    }
    this.all.push(...added);
    this.redraw();
    return added;
  }

  /** Remove a frame; the one that is to be shown instead, if any. */
  remove(frame) {
    const at = this.all.indexOf(frame);
    frame.forget();
    this.all.splice(at, 1);
    this.#rows.get(frame).remove();
    this.#rows.delete(frame);
    this.redraw();
    return this.all[Math.min(at, this.all.length - 1)];
  }

  /** The frame that is so many further on. */
  beside(step) { return this.all[this.all.indexOf(this.shown) + step]; }

  /** Find the nuclei of all that wait, one frame after the other; the one that is shown is not kept waiting. */
  async work() {
    if (this.#stepping) return;
    this.#stepping = true;
    for (let next; (next = this.all.find(({ state, answering }) => state === "waiting" && !answering)); ) {
      await this.on.find(next).catch(() => {}); // it is noted with the frame
    }
    this.#stepping = false;
  }

  redraw(frame) {
    for (const each of frame ? [frame] : this.all) this.#draw(each);
    const several = this.all.length > 1, count = (state) => this.all.filter((each) => each.state === state).length;
    for (const id of ["frames", "save-all", "earlier", "later"]) get(id).hidden = !several;
    get("earlier").disabled = !this.beside(-1);
    get("later").disabled = !this.shown || !this.beside(1);
    const done = count("done"), failed = count("failed"), nuclei = this.all.reduce((sum, { kept }) => sum + kept, 0);
    get("frames-said").textContent = [
      `${done} of ${this.all.length} done, ${nuclei} nuclei`,
      failed && `${failed} failed`,
    ].filter(Boolean).join(", ");
    get("save-all").textContent = `Download all ${this.all.length}`;
  }

  #draw(frame) {
    const row = this.#rows.get(frame);
    if (!row) return;
    const { state, kept, found, error } = frame;
    const out = found ? found.count - kept : 0;
    const text = {
      waiting: "waiting", working: "finding nuclei …", failed: error,
      done: `${kept} ${kept === 1 ? "nucleus" : "nuclei"}${out ? `, ${out} discarded` : ""}${found?.warnings.length ? `, ${found.warnings.length} warning${found.warnings.length > 1 ? "s" : ""}` : ""}`,
    };
    row.querySelector(".state").textContent = text[state];
    row.className = state;
    row.setAttribute("aria-selected", frame === this.shown);
    row.tabIndex = frame === this.shown ? 0 : -1;
    if (frame === this.shown) row.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const at = this.all.indexOf(this.shown), last = this.all.length - 1;
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: last };
    if (event.key in moves) this.on.show(this.all[Math.min(last, Math.max(0, moves[event.key]))]);
    else if (event.key === "Delete") this.on.remove(this.shown);
    else return;
    event.preventDefault();
    this.#rows.get(this.shown)?.focus();
  }

  /**
   * A zip with the results of all frames, one after the other, as a Blob, which browsers keep on disk.
   *
   * Tables (csv) become one, `nuclei.csv`; of other formats there is a file for each frame. `frames.csv`
   * has a line for each frame, with the error of one that failed.
   *
   * @param {boolean} isTable
   * @param {Function} named makes the name of a frame's file.
   * @param {Function} fetched asks for a frame's file: resolves to a Response.
   * @param {Function} told is told how many are done.
   */
  async zip(isTable, named, fetched, told) {
    const lines = [], table = new Table(), names = new Set();
    const files = async function* () {
      for (const [at, frame] of this.all.entries()) {
        told(at);
        let file = null;
        try {
          const { model, version, count, warnings } = await this.on.find(frame);
          file = await fetched(frame);
          lines.push([frame.name, "", model, version, frame.kept, count - frame.kept, warnings.join(" | ")]);
        } catch (error) {
          if (error.name === "AbortError") throw error;
          lines.push([frame.name, error.message, "", "", "", "", ""]);
        }
        if (file && isTable) table.add(frame.name, await file.text());
        else if (file) yield { name: once(named(frame), names), input: file, lastModified: new Date() };
      }
      if (isTable) yield { name: "nuclei.csv", input: table.parts(), lastModified: new Date() };
      const head = ["frame", "error", "model", "version", "count", "discarded", "warnings"];
      yield { name: "frames.csv", input: [head, ...lines].map(line).join(""), lastModified: new Date() };
    }.bind(this);
    const blob = await downloadZip(files()).blob();
    return { blob, failed: lines.filter(([, error]) => error).map(([name]) => name) };
  }
}

/** Tables of several frames, one below the other, with the frame in the first column. */
class Table {
  #columns = [];
  #parts = []; // of each frame: its columns, and its lines as a Blob

  add(name, text) {
    const end = text.indexOf("\n"), columns = text.slice(0, end).split(",");
    this.#columns = [...new Set([...this.#columns, ...columns])];
    const lines = text.slice(end + 1).split("\n").filter(Boolean);
    // The browser keeps a Blob on disk.
    this.#parts.push({ columns, blob: new Blob([lines.map((each) => `${cell(name)},${each}\n`).join("")]) });
  }

  /** The table, in parts. */
  async *parts() {
    const encoder = new TextEncoder();
    yield encoder.encode(`${["frame", ...this.#columns].join(",")}\n`);
    for (const { columns, blob } of this.#parts) yield encoder.encode(this.#fitted(columns, await blob.text()));
  }

  /** The lines with all columns: not every frame has the same channels. */
  #fitted(columns, text) {
    if (columns.join() === this.#columns.join()) return text;
    const places = this.#columns.map((name) => columns.indexOf(name));
    return text.split("\n").filter(Boolean).map((each) => {
      // The name may hold commas; the numbers behind it do not.
      const values = each.split(",").slice(-columns.length), name = each.split(",").slice(0, -columns.length).join(",");
      return `${[name, ...places.map((at) => values[at] ?? "")].join(",")}\n`;
    }).join("");
  }
}

const line = (values) => `${values.map(cell).join(",")}\n`;

/** A value of a table; a name that a spreadsheet would take for a formula stays text. */
function cell(value) {
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""').replace(/[\r\n]+/g, " ")}"` : text;
}

/** A name that no file before has. */
function once(name, names) {
  const dot = name.indexOf("."), [stem, rest] = dot < 0 ? [name, ""] : [name.slice(0, dot), name.slice(dot)];
  let unique = name;
  for (let copy = 2; names.has(unique); copy++) unique = `${stem} (${copy})${rest}`;
  names.add(unique);
  return unique;
}

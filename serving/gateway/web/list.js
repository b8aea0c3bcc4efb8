// The list of nuclei: sorted by a feature, a page at a time, walked with the keyboard.

import { short } from "./histogram.js";

const PAGE = 100;

export class List {
  #head = document.querySelector("#rows thead tr");
  #body = document.querySelector("#rows tbody");
  #order = [];
  #descending = false;
  #by = "label";
  #page = 0;

  /** @param {object} on what happens: choose(row), toggle(row), reach(row). */
  constructor(on) {
    this.on = on;
    document.getElementById("before").onclick = () => this.#turn(this.#page - 1);
    document.getElementById("after").onclick = () => this.#turn(this.#page + 1);
    this.#body.onclick = (event) => {
      const row = event.target.closest("tr");
      if (row) this.#choose(Number(row.dataset.row), true);
    };
    this.#body.ondblclick = (event) => {
      const row = event.target.closest("tr");
      if (row) this.on.reach(Number(row.dataset.row));
    };
    this.#body.onkeydown = (event) => this.#key(event);
  }

  /**
   * Show the nuclei with one feature beside their labels.
   *
   * @param {Nuclei} nuclei
   * @param {string} feature
   */
  show(nuclei, feature) {
    this.nuclei = nuclei;
    this.feature = feature;
    if (this.#by !== "label") this.#by = feature;
    this.#sort();
  }

  /** Draw again what has changed, at the row that is selected. */
  redraw() {
    const at = this.#order.indexOf(this.nuclei.selected);
    if (at >= 0) this.#page = Math.floor(at / PAGE);
    this.#draw();
    this.#body.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }

  #sort() {
    const { nuclei } = this;
    const values = this.#by === "label" ? nuclei.labels : nuclei.columns[this.#by];
    const sign = this.#descending ? -1 : 1;
    const key = (row) => (Number.isNaN(values[row]) ? -Infinity : values[row]);
    this.#order = Array.from({ length: nuclei.count }, (_, row) => row);
    this.#order.sort((a, b) => sign * (key(a) - key(b)));
    this.#page = 0;
    this.redraw();
  }

  #draw() {
    const { nuclei, feature } = this;
    const titles = [["label", "Nucleus"], [feature, feature.replace("^2", "²")]];
    this.#head.replaceChildren(...titles.map(([name, title]) => {
      const cell = document.createElement("th"), button = document.createElement("button");
      cell.scope = "col";
      cell.setAttribute("aria-sort", this.#by !== name ? "none" : this.#descending ? "descending" : "ascending");
      button.type = "button";
      button.textContent = title + (this.#by !== name ? "" : this.#descending ? " ↓" : " ↑");
      button.onclick = () => {
        this.#descending = this.#by === name ? !this.#descending : name !== "label";
        this.#by = name;
        this.#sort();
      };
      cell.append(button);
      return cell;
    }));
    const first = this.#page * PAGE, shown = this.#order.slice(first, first + PAGE);
    const focused = this.#body.contains(document.activeElement);
    const selected = shown.includes(nuclei.selected) ? nuclei.selected : shown[0];
    this.#body.replaceChildren(...shown.map((row) => {
      const line = document.createElement("tr"), out = nuclei.discarded[row];
      line.dataset.row = row;
      line.className = out ? "out" : "";
      line.tabIndex = row === selected ? 0 : -1;
      line.setAttribute("aria-selected", row === nuclei.selected);
      line.insertCell().textContent = nuclei.labels[row];
      line.insertCell().textContent = short(nuclei.columns[feature]?.[row]);
      if (out) line.setAttribute("aria-label", `Nucleus ${nuclei.labels[row]}, discarded`);
      return line;
    }));
    if (focused) this.#body.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
    const pages = Math.ceil(this.#order.length / PAGE);
    document.getElementById("pages").hidden = pages < 2;
    document.getElementById("page-said").textContent = `${first + 1} to ${first + shown.length} of ${this.#order.length}`;
    document.getElementById("before").disabled = this.#page === 0;
    document.getElementById("after").disabled = this.#page >= pages - 1;
  }

  #turn(page) {
    this.#page = page;
    this.#draw();
  }

  #choose(row, focus) {
    this.on.choose(row);
    if (focus) this.#body.querySelector("[aria-selected=true]")?.focus({ preventScroll: true });
  }

  #key(event) {
    const row = Number(event.target.closest("tr").dataset.row), at = this.#order.indexOf(row);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: this.#order.length - 1 };
    if (event.key in moves) {
      const next = Math.min(this.#order.length - 1, Math.max(0, moves[event.key]));
      this.#choose(this.#order[next], true);
    } else if (["Delete", "Backspace", " "].includes(event.key)) {
      this.on.choose(row);
      this.on.toggle(row);
    } else if (event.key === "Enter") {
      this.on.choose(row);
      this.on.reach(row);
    } else return;
    event.preventDefault();
  }
}

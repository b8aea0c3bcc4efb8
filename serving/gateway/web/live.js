// The page that watches streams: the newest frame of each position, counts and times.

import { call, Problem } from "./api.js";
import { short } from "./histogram.js";

const KEPT = 60; // frames of a position in its charts
const SILENT_S = 60; // until a stream that says nothing is put at the end
const MOST_STREAMS = 12; // beyond which silent ones are removed: the page may stay open for weeks
const SVG = "http://www.w3.org/2000/svg";
const RETRY_MS = 3000;

const streams = new Map();
const get = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

/** One position of a stream: its newest picture, and what was found over time. */
class Position {
  counts = [];
  times = [];
  skipped = 0;
  failed = 0;

  constructor(number) {
    this.picture = make("img", { alt: "" });
    this.none = make("p", { className: "quiet", textContent: "no picture yet" });
    this.when = make("span", {});
    this.count = make("strong", { textContent: "–" });
    this.said = make("p", { className: "quiet" });
    this.trouble = make("p", { className: "trouble" });
    this.charts = [new Chart("Nuclei", ""), new Chart("Answered in", " ms")];
    this.element = make("article", {},
      make("h3", { textContent: `Position ${number}` }),
      make("div", { className: "picture" }, this.picture, this.none, this.when),
      make("p", {}, this.count, " nuclei"), this.said, this.trouble, ...this.charts.map(({ element }) => element));
    this.number = number;
  }

  take(event) {
    if (event.kind === "skipped") this.skipped++;
    else if (event.kind === "failed") {
      this.failed++;
      this.failure = event.detail;
    } else {
      this.counts.push(event.count);
      this.times.push(event.ms);
      if (this.counts.length > KEPT) { this.counts.shift(); this.times.shift(); }
      this.newest = event;
      if (event.picture) this.waiting = event;
    }
  }

  draw() {
    const { newest, waiting } = this;
    if (waiting) {
      const bytes = Uint8Array.from(atob(waiting.picture), (letter) => letter.charCodeAt(0));
      const before = this.picture.src;
      this.picture.src = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
      this.picture.alt = `Position ${this.number}, time ${waiting.t}: ${waiting.count} nuclei outlined`;
      if (before) URL.revokeObjectURL(before);
      this.none.hidden = true;
      this.when.textContent = `time ${waiting.t}: ${waiting.count}`;
      this.waiting = null;
    }
    if (newest) {
      this.count.textContent = newest.count;
      this.said.textContent = `time ${newest.t}${newest.z ? `, slice ${newest.z}` : ""}${newest.c ? `, channel ${newest.c}` : ""} · ${Math.round(newest.ms)} ms · ${newest.model} ${newest.version}`;
    }
    this.trouble.replaceChildren(...[
      this.skipped && `${this.skipped} skipped`,
      this.failed && `${this.failed} failed: ${this.failure}`,
      newest?.warnings.length && `⚠ ${newest.warnings[0]}`,
    ].filter(Boolean).flatMap((text) => [text, make("br")]));
    this.charts[0].draw(this.counts);
    this.charts[1].draw(this.times);
  }
}

/** A line of the last values. */
class Chart {
  constructor(title, unit) {
    this.title = title;
    this.unit = unit;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", "0 0 120 32");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.line = document.createElementNS(SVG, "polyline");
    this.svg.append(this.line);
    this.caption = make("figcaption", { className: "quiet" });
    this.element = make("figure", { className: "chart" }, this.caption, this.svg);
  }

  draw(values) {
    const most = Math.max(1, ...values), last = values.at(-1);
    this.line.setAttribute("points", values.map((value, at) => `${120 * at / Math.max(1, values.length - 1)},${30 - 28 * value / most}`).join(" "));
    const shown = (value) => (values.length ? `${Math.round(value)}${this.unit}` : "–");
    this.caption.textContent = `${this.title}: ${shown(last)}, at most ${shown(most)}`;
    this.svg.setAttribute("aria-label", this.caption.textContent);
  }
}

function streamOf(event) {
  if (!streams.has(event.stream)) {
    const title = make("h2"), grid = make("div", { className: "positions" });
    const element = make("section", {}, title, grid);
    streams.set(event.stream, { title, grid, element, positions: new Map(), frames: 0, skipped: 0, failed: 0, since: performance.now() });
    get("streams").prepend(element);
    get("idle").hidden = true;
  }
  return streams.get(event.stream);
}

const changed = new Set();
let drawing = false;

function take(event) {
  if (event.kind === "left_out") {
    say(`Watching; ${event.frames} frames came faster than this page reads.`);
    return;
  }
  const stream = streamOf(event);
  if (!stream.positions.has(event.position)) {
    const position = new Position(event.position);
    stream.positions.set(event.position, position);
    const after = [...stream.positions.values()].filter(({ number }) => number > event.position).sort((a, b) => a.number - b.number)[0];
    stream.grid.insertBefore(position.element, after?.element ?? null);
  }
  const position = stream.positions.get(event.position);
  position.take(event);
  stream.frames++;
  stream.skipped += event.kind === "skipped";
  stream.failed += event.kind === "failed";
  stream.last = performance.now();
  stream.name = event.acquisition || `Stream ${event.stream}`;
  changed.add(position).add(stream);
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function draw() {
  drawing = false;
  for (const each of changed) {
    if (each instanceof Position) each.draw();
    else {
      const seconds = (each.last - each.since) / 1000;
      const rate = seconds > 2 ? `, ${short((each.frames - 1) / seconds)} frames/s` : "";
      each.title.textContent = each.name;
      each.title.append(make("span", { className: "quiet", textContent: `${each.frames} frames${rate}, ${each.skipped} skipped, ${each.failed} failed` }));
    }
  }
  changed.clear();
}

/** Put silent streams at the end, and remove those that have been silent longest. */
function settle() {
  const byAge = [...streams].sort(([, a], [, b]) => a.last - b.last);
  for (const [name, { element, positions, last }] of byAge) {
    const silent = performance.now() - last > SILENT_S * 1000;
    if (silent && streams.size > MOST_STREAMS) {
      for (const { picture } of positions.values()) URL.revokeObjectURL(picture.src);
      element.remove();
      streams.delete(name);
    } else if (silent !== element.classList.contains("silent")) {
      get("streams").insertBefore(element, silent ? get("streams").querySelector(".silent") : get("streams").firstChild);
      element.classList.toggle("silent", silent);
    }
  }
}

setInterval(settle, 5000);

function say(text) { get("status").textContent = text; }

async function watch() {
  const answer = await call("/v1/live");
  get("problem").hidden = true;
  say("Watching.");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) take(JSON.parse(line.slice(6)));
  }
}

async function forever() {
  for (;;) {
    try {
      await watch();
      say("The server has ended the connection; connecting again …");
    } catch (error) {
      const off = error instanceof Problem && error.said.status === 404;
      get("problem").textContent = off ? "The live view is switched off on this server (NUCLEI_LIVE=false)." : `${error.message}. Trying again …`;
      get("problem").hidden = false;
      say("");
      if (off) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

forever();

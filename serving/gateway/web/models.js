// The page that says which models are served, how challengers do, and what is registered.

import { call } from "./api.js";
import { Registry } from "./registry.js";
import { short } from "./histogram.js";

const EVERY_MS = 5000;
const get = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
const percent = (share) => `${short(100 * share)} %`;
let pictures = [];

function table(rows) {
  const made = make("table", { className: "facts" });
  for (const [name, value] of rows) {
    const row = made.insertRow();
    row.append(make("th", { scope: "row", textContent: name }));
    row.insertCell().append(value ?? "unknown");
  }
  return made;
}

const SCORE = /^(dsb_score|aji|f1|tta_dsb_score)(\/|$)/, LEFT_OUT = "left_out/";

function scored(title, scores) {
  if (!scores.length) return [];
  const named = (name) => name.replaceAll("_", " ").replace("dsb", "DSB").replace("/", ", ");
  return [make("h3", { textContent: title }), table(scores.map(([name, value]) => [named(name), short(value)]))];
}

function described(model, isDefault) {
  const others = model.versions.filter((version) => String(version) !== String(model.version));
  const numbers = Object.entries(model.validation).filter(([, value]) => typeof value === "number");
  const scores = numbers.filter(([name]) => SCORE.test(name));
  const elsewhere = numbers.filter(([name]) => name.startsWith(LEFT_OUT)).map(([name, value]) => [name.slice(LEFT_OUT.length), value]);
  return make("section", {},
    make("h2", { textContent: `${model.name}${isDefault ? " (the default)" : ""}` }),
    table([
      ["Version in use", String(model.version)],
      ["Also loaded", others.length ? others.join(", ") : "none"],
      ["8 views (TTA)", model.tta ? "yes" : "not loaded"],
      ["Precision", model.precision ?? "unknown"],
      ["Trained at", model.pixel_size_um ? `${short(model.pixel_size_um)} µm a pixel` : "pixels of any size"],
    ]),
    ...scored("Scores on laboratories left out of its training", elsewhere.filter(([name]) => SCORE.test(name))),
    ...scored("Scores on other images of the laboratories it learned from", scores.length ? scores : numbers),
    ...(numbers.length ? [make("p", { className: "quiet", textContent: "The score of the Data Science Bowl 2018: 1 where every nucleus is found with its exact outline. Higher is better." })] : []));
}

function trial(rollout) {
  const { shadow, canary } = rollout;
  return make("section", {},
    make("h2", { textContent: `${rollout.model}: version ${rollout.challenger} on trial against ${rollout.champion}` }),
    make("p", { className: rollout.verdict === "aborted" ? "trouble" : "", textContent: rollout.verdict === "aborted" ? `Aborted: ${rollout.reason}` : `Running since ${new Date(1000 * rollout.since).toLocaleString()}.` }),
    table([
      ["Answers callers (canary)", `${percent(canary.fraction)} of them: ${canary.answered} frames, ${canary.failed} failed`],
      ["Time for a megapixel", `${short(canary.challenger_ms.p50)} ms, the champion ${short(canary.champion_ms.p50)} ms`],
      ["Segments along (shadow)", `${percent(shadow.fraction)} of frames: ${shadow.compared} compared, ${shadow.failed} failed`],
      ["Agrees with the champion", shadow.agreement.mean === null ? "not known yet" : `AP@.5 ${short(shadow.agreement.mean)} on average, ${short(shadow.agreement.p05)} in the worst 5 %`],
      ["Nuclei found", `${shadow.challenger_nuclei}, the champion ${shadow.champion_nuclei}`],
    ]),
    ...(rollout.worst.length ? [make("h3", { textContent: "Where they differ most: champion blue, challenger orange" }), make("div", { className: "positions" }, ...rollout.worst.map(worst))] : []));
}

function worst(frame) {
  const bytes = Uint8Array.from(atob(frame.png), (letter) => letter.charCodeAt(0));
  const src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  pictures.push(src);
  const said = `${frame.champion_nuclei} and ${frame.challenger_nuclei} nuclei, AP@.5 ${short(frame.agreement)}`;
  return make("figure", {}, make("img", { src, alt: `Frame ${frame.request_id}: ${said}` }), make("figcaption", { className: "quiet", textContent: said }));
}

async function show() {
  const [served, rollout] = await Promise.all([call("/v1/models"), call("/v1/rollout")].map(async (answer) => (await answer).json()));
  const before = pictures;
  pictures = [];
  get("models").replaceChildren(
    ...rollout.models.map(trial),
    ...served.models.map((model) => described(model, model.name === served.default_model)));
  before.forEach((src) => URL.revokeObjectURL(src));
  registry.family = served.default_model;
  get("problem").hidden = true;
  registry.show(); // it may take longer, and nobody waits for it here
  get("status").textContent = `Service ${served.server_version}; looked at ${new Date().toLocaleTimeString()}.`;
}

const registry = new Registry(get("registered"), get("change"));

async function forever() {
  for (;;) {
    try {
      await show();
    } catch (error) {
      get("problem").textContent = `${error.message}. Trying again …`;
      get("problem").hidden = false;
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

forever();

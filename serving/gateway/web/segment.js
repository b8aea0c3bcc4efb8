// The page that segments a picture: what is opened, chosen, shown, discarded and downloaded.

import { call, form, Problem } from "./api.js";
import { Frames } from "./frames.js";
import { Histogram, short } from "./histogram.js";
import { List } from "./list.js";
import { Nuclei } from "./nuclei.js";
import { Picture } from "./picture.js";
import { COLOURS, Viewer } from "./viewer.js";

// What a browser waits for; the service's own limit is for callers that say nothing.
const TIMEOUT_S = 1800;
// Channels that hold nuclei, by what they are called.
const NUCLEAR = /dapi|hoechst|nucle|dna|draq|h2b|h33|sytox|405/i;
const FORMATS = {
  csv: ["Table (CSV)", "One line for each nucleus: area, shape, brightness, neighbours. Opens in Excel, R, pandas."],
  parquet: ["Table (Parquet)", "The same table for pandas, Polars and R, with types."],
  geojson: ["Outlines for QuPath (GeoJSON)", "Drag it onto the picture in QuPath: detections with their measurements."],
  "rois.zip": ["ROIs for ImageJ and Fiji (zip)", "Open it in ImageJ or Fiji: one region for each nucleus in the ROI Manager."],
  "labels.tif": ["Label image (TIFF)", "Each pixel holds the number of its nucleus, 0 outside. For ImageJ, napari, CellProfiler."],
  "labels.ome.tif": ["Label image (OME-TIFF)", "The same with its pixel size in OME metadata."],
  "labels.png": ["Label image (PNG)", "The same as 16-bit PNG."],
  "labels.ome.zarr": ["Label image (OME-Zarr)", "The same in several sizes, for napari and other viewers of OME-Zarr."],
  "overlay.png": ["Picture with outlines (PNG)", "To look at, or for a slide."],
  "coco.json": ["Masks (COCO JSON)", "For training and comparing models."],
  json: ["Everything (JSON)", "Features, warnings, quality and times."],
};
// Numbers that may be given to the model, where the service takes them.
const KNOBS = {
  threshold: ["Threshold, 0 to 1: lower finds more, also what is none", 0.01],
  min_area: ["Smallest area, pixels", 1],
  diameter: ["Diameter of a nucleus, pixels, where sizes are unusual", 1],
};
const SHOWN = ["Area px^2", "Area µm^2", "Mean intensity", "Eccentricity", "Solidity", "Score"];

const get = (id) => document.getElementById(id);
const fields = { model: get("model"), tta: get("tta"), channel: get("channel"), plane: get("plane"), project: get("project") };

let frame = null; // that is shown, of `frames`
let picture = null;
let result = null;
let other = null;
let range = null; // of the feature
let running = null; // AbortController of the requests of now
let comparing = null;
let models = [];
let viewers = [];

// --- What is served ---------------------------------------------------------------------------

let learning = null;

/** Learn what is served, once; a failure is tried again by who asks next. */
function learned() {
  learning ??= learn().catch((error) => {
    learning = null;
    throw error;
  });
  return learning;
}

async function learn() {
  const [served, api] = await Promise.all([call("/v1/models"), call("/openapi.json")].map(async (answer) => (await answer).json()));
  models = served.models.flatMap(({ name, version, versions, tta, tuned }) =>
    versions.map((each) => ({ name, tuned, version: each, inUse: each === Number(version), tta: tta && each === Number(version) })));
  models.sort((a, b) => (b.name === served.default_model) - (a.name === served.default_model) || b.inUse - a.inUse);
  fields.model.replaceChildren(...models.map((model, at) => new Option(named(model), at)));
  const { schema } = api.paths["/v1/segment"].post.requestBody.content["multipart/form-data"];
  get("format").replaceChildren(...schema.properties.format.enum.map((name) => new Option(FORMATS[name]?.[0] ?? name, name)));
  if (schema.properties.format.enum.includes("csv")) get("format").value = "csv";
  describeFormat();
  makeKnobs(schema.properties);
  chooseModel();
}

const named = ({ name, version, inUse }) => `${name}, version ${version}${inUse ? "" : " (not in use)"}`;

function makeKnobs(parameters) {
  const known = Object.entries(KNOBS).filter(([name]) => name in parameters);
  get("knobs").replaceChildren(...known.map(([name, [title, step]]) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type: "number", id: `knob-${name}`, min: 0, step });
    input.onchange = () => segment();
    label.append(title, " ", input);
    return label;
  }));
}

function chooseModel() {
  const model = models[fields.model.value];
  fields.tta.disabled = !model.tta;
  if (!model.tta) fields.tta.checked = false;
  for (const input of get("knobs").querySelectorAll("input")) {
    const tuned = Object.entries((model.inUse && model.tuned?.[input.id.replace("knob-", "")]) || {});
    const alike = tuned.length > 1 && tuned.every(([, value]) => value === tuned[0][1]);
    const told = alike ? `${short(tuned[0][1])} (as tuned)` : tuned.map(([kind, value]) => `${kind} ${short(value)}`).join(", ");
    input.placeholder = told || "as tuned";
  }
  const own = optionsOf(model, fields.tta.checked);
  const others = models.flatMap((each) => (each.tta ? [false, true] : [false]).map((tta) => [each, tta]));
  const before = get("compare").value;
  get("compare").replaceChildren(new Option("nothing", ""), ...others
    .map(([each, tta]) => [JSON.stringify(optionsOf(each, tta)), named(each) + (tta ? ", 8 times (TTA)" : "")])
    .filter(([value]) => value !== JSON.stringify(own))
    .map(([value, title]) => new Option(title, value)));
  get("compare").value = before;
  if (get("compare").selectedIndex < 0) get("compare").value = "";
}

/** A version in use is asked for by its model's name: another may have come into use meanwhile. */
const optionsOf = ({ name, version, inUse }, tta) => ({ model: name, tta, ...(inUse ? {} : { version }) });

function query({ chosen }, extra) {
  const knobs = [...get("knobs").querySelectorAll("input")].filter(({ value }) => value);
  const given = Object.fromEntries(knobs.map(({ id, value }) => [id.replace("knob-", ""), value]));
  if (get("size").value) given.pixel_size = get("size").value;
  return new URLSearchParams({ ...chosen, ...given, timeout_s: TIMEOUT_S, ...extra });
}

// --- Files ------------------------------------------------------------------------------------

function open(files) {
  if (!files?.length) return;
  if (!frames.all.length) get("size").value = "";
  const [first] = frames.add(files);
  say(files.length > 1 ? `${files.length} frames came.` : "");
  show(first);
}

/** Show another frame; what was found in the one before is kept. */
function show(next) {
  if (!next) return clear();
  if (next === frame) return;
  frame = frames.shown = next;
  dropResult();
  get("name").textContent = frame.name;
  frames.redraw();
  describeFormat();
  read();
}

function remove(of) {
  const next = frames.remove(of);
  describeFormat();
  if (of === frame) show(next);
}

/** Nothing is open any more. */
function clear() {
  start();
  busy("");
  frame = frames.shown = null;
  dropResult();
  closePicture();
  for (const id of ["desk", "download"]) get(id).hidden = true;
  get("open").hidden = false;
  frames.redraw();
}

/** Nothing is known of the frame: neither of its nuclei nor of another model's. */
function dropResult() {
  forget(result);
  forget(other);
  result = other = null;
  for (const id of ["result", "features", "list"]) get(id).hidden = true;
  get("save").disabled = true;
  for (const viewer of viewers) {
    viewer.nuclei = null;
    viewer.redraw();
  }
  legend();
}

/** Whether what is shown is the frame's result, and not one of other options that is asked for again. */
const isOfNow = () => Boolean(result && frame?.found === result.answer);

function closePicture() {
  picture?.close();
  picture = null;
  for (const id of ["contrast", "channel-field", "plane-field"]) get(id).hidden = true;
  for (const viewer of viewers) viewer.clear();
}

/** Read the picture and segment it, side by side: the picture is seen first. */
async function read() {
  const signal = start(), of = frame;
  get("save").disabled = true;
  get("open").hidden = true;
  get("desk").hidden = false;
  busy("Reading the picture …");
  find(of).catch(() => {}); // it is awaited below, unless the picture fails first
  frames.work();
  const asked = JSON.stringify(of.chosen);
  let seen = false;
  try {
    const params = new URLSearchParams({ ...of.chosen, timeout_s: TIMEOUT_S });
    const answer = await call(`/v1/frame?${params}`, { method: "POST", body: form(of.file), signal, waiting: wait });
    const read = await Picture.of(await answer.arrayBuffer());
    if (signal.aborted) return read.close();
    picture?.close();
    picture = read;
    seen = true;
    showChoices(read.about.choices);
    showBrightness();
    for (const viewer of viewers) viewer.nuclei = null;
    get("size").placeholder = read.about.pixel_size_um ? short(read.about.pixel_size_um.x) : "unknown";
    busy("Finding nuclei …");
    await Promise.all([viewers[0].show(picture), finish(of, signal)]);
  } catch (error) {
    if (signal.aborted) return;
    if (error.name === "ChoiceRequired" && choose(of, error.said, asked)) return read();
    dropResult();
    if (!seen) closePicture(); // of the frame before
    fail(error);
  }
}

/** Choose what a file leaves open; the pickers show it, and change it. Whether it is another choice than the asked. */
function choose(of, { channels, planes }, asked) {
  const { chosen } = of;
  of.channels = channels.join("\n");
  if (channels.length > 1 && chosen.channel === undefined) {
    const same = frames.all.find((each) => each !== of && each.channels === of.channels && each.chosen.channel !== undefined);
    if (same) chosen.channel = same.chosen.channel;
    else chosen.channel = channelValue(channels, nuclearChannel(channels));
  }
  if (planes > 1 && chosen.plane === undefined && !chosen.project) chosen.plane = Math.floor(planes / 2);
  return JSON.stringify(chosen) !== asked;
}

/** The channel that is called like a stain of nuclei, else blue of colours, else the first. */
function nuclearChannel(channels) {
  const at = channels.findIndex((name) => NUCLEAR.test(name));
  if (at >= 0) return at;
  return channels.length === 3 && channels[2] === "blue" ? 2 : 0;
}

/** How a channel is asked for: by its name where it has one of its own. */
function channelValue(channels, at) {
  const name = channels[at];
  return name && name.length < 64 && channels.filter((each) => each.toLowerCase() === name.toLowerCase()).length === 1 ? name : String(at);
}

function showChoices({ channels, planes }) {
  const { chosen } = frame;
  get("channel-field").hidden = channels.length < 2;
  const inColour = channels.join() === "red,green,blue";
  fields.channel.replaceChildren(
    ...(inColour ? [new Option("all colours", "")] : []),
    ...channels.map((name, at) => new Option(name ? `${at}: ${name}` : `channel ${at}`, channelValue(channels, at))),
  );
  fields.channel.value = chosen.channel ?? "";
  get("plane-field").hidden = planes < 2;
  fields.plane.max = planes - 1;
  fields.plane.value = chosen.plane ?? 0;
  fields.plane.disabled = Boolean(chosen.project);
  fields.project.checked = Boolean(chosen.project);
  get("plane-said").textContent = chosen.project ? "" : `${Number(fields.plane.value) + 1} of ${planes}`;
}

function choosePlane() {
  const planes = Number(fields.plane.max) + 1, { plane, project, ...rest } = frame.chosen;
  frame.chosen = fields.project.checked ? { ...rest, project: "max" } : { ...rest, plane: fields.plane.value };
  get("plane-said").textContent = `${Number(fields.plane.value) + 1} of ${planes}`;
  frame.forget();
  frames.redraw(frame);
  read();
}

/** Take this channel of the frame that is shown, and of all that have the same channels. */
function chooseChannel() {
  const alike = frames.all.filter((each) => each === frame || (frame.channels && each.channels === frame.channels));
  for (const each of alike) {
    const { channel, ...rest } = each.chosen;
    each.chosen = fields.channel.value ? { ...rest, channel: fields.channel.value } : rest;
    each.forget();
  }
  frames.redraw();
  read();
}

// --- Nuclei -----------------------------------------------------------------------------------

/** What the service finds in a frame: outlines as a Blob of GeoJSON, and what is said of them. */
async function ask(of, signal, options) {
  await learned(); // a file may be faster
  options ??= optionsOf(models[fields.model.value], fields.tta.checked);
  const params = query(of, { ...options, format: "geojson" });
  const waiting = of === frame ? wait : undefined;
  const { headers, ...answer } = await answered(`/v1/segment?${params}`, { method: "POST", body: form(of.file), signal, waiting });
  return {
    ...answer, options, model: headers.get("X-Model"), version: headers.get("X-Model-Version"),
    count: Number(headers.get("X-Nuclei-Count")), warnings: JSON.parse(headers.get("X-Nuclei-Warnings") ?? "[]"),
  };
}

async function answered(path, options) {
  const response = await call(path, options);
  return { headers: response.headers, blob: await response.blob() };
}

/** The nuclei of a frame with the options of now, asked for once; the frame keeps what became of it. */
function find(of) {
  if (of.answering) return of.answering.promise;
  const controller = new AbortController(), { signal } = controller;
  const asking = async () => {
    for (;;) {
      const asked = JSON.stringify(of.chosen);
      try {
        return await ask(of, signal);
      } catch (error) {
        if (signal.aborted || error.name !== "ChoiceRequired" || !choose(of, error.said, asked)) throw error;
      }
    }
  };
  const promise = asking().then(
    (found) => note(of, signal, { state: "done", found, kept: found.count }, found),
    (error) => {
      note(of, signal, { state: "failed", error: error instanceof Problem ? error.message : "this page failed" });
      throw error;
    });
  of.answering = { controller, promise };
  of.state = "working";
  frames.redraw(of);
  return promise;
}

function note(of, signal, known, found) {
  if (!signal.aborted) {
    Object.assign(of, known);
    frames.redraw(of);
  }
  return found;
}

/** Segment again with other options: the picture that is shown, and then all others. */
async function segment() {
  if (!frame) return;
  const signal = start();
  for (const each of frames.all) each.forget();
  frames.redraw();
  get("save").disabled = true;
  busy("Finding nuclei …");
  try {
    const finding = finish(frame, signal);
    frames.work();
    await finding;
  } catch (error) {
    if (signal.aborted) return;
    dropResult();
    fail(error);
  }
}

async function finish(of, signal) {
  const answer = await find(of);
  if (signal.aborted) return;
  const found = await Nuclei.of(answer);
  if (signal.aborted) return forget(found);
  forget(result);
  result = Object.assign(found, { answer });
  if (of.discarded) result.discarded.set(of.discarded);
  range = null;
  viewers[0].nuclei = result;
  busy("");
  showResult();
  await compare();
}

async function compare() {
  const options = get("compare").value && JSON.parse(get("compare").value);
  comparing?.abort();
  forget(other);
  other = null;
  if (result) result.matched = null;
  const turned = get("pane-b").hidden === Boolean(options);
  get("pane-b").hidden = !options;
  for (const caption of document.querySelectorAll("figcaption")) Object.assign(caption, { hidden: !options, textContent: "…" });
  if (turned) viewers[0].fit(); // into half of the place, or all of it
  get("difference").hidden = true;
  legend();
  viewers[0].redraw();
  if (!options || !result) return;
  comparing = new AbortController();
  const { signal } = comparing;
  viewers[1] ??= makeViewer(get("pane-b"));
  viewers[1].nuclei = null;
  get("pane-a").querySelector("figcaption").textContent = `${title(result)}: ${result.count} nuclei`;
  busy("Asking the other model …");
  try {
    const [found] = await Promise.all([ask(frame, signal, options).then(Nuclei.of), viewers[1].show(picture)]);
    if (signal.aborted) return forget(found);
    other = found;
    await result.compareWith(other);
    viewers[1].nuclei = other;
    viewers[1].follow(viewers[0]);
    showDifference();
  } catch (error) {
    if (!signal.aborted) fail(error);
  } finally {
    if (!signal.aborted) busy("");
  }
}

function showDifference() {
  const sum = (flags) => flags.reduce((total, one) => total + one, 0);
  const same = sum(result.matched);
  const rows = [
    ["the same in both", same],
    [`only by ${title(result)}`, result.count - same],
    [`only by ${title(other)}`, other.count - sum(other.matched)],
  ];
  const table = document.createElement("table");
  for (const [name, count] of rows) {
    const row = table.insertRow(), head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = count;
  }
  const heading = document.createElement("p");
  heading.textContent = `Compared with ${title(other)}, which found ${other.count}:`;
  const note = document.createElement("p");
  note.className = "quiet";
  note.textContent = "Two outlines are the same nucleus where they share more than half of their area (IoU above 0.5).";
  get("difference").replaceChildren(heading, table, note);
  get("difference").hidden = false;
  get("pane-b").querySelector("figcaption").textContent = `${title(other)}: ${other.count} nuclei`;
  legend();
  for (const viewer of viewers) viewer.redraw();
}

const title = ({ model, version, options }) => `${model} ${version}${options.tta ? " (TTA)" : ""}`;

function forget(nuclei) { nuclei?.close(); }

function showResult() {
  for (const id of ["result", "download", "features", "list"]) get(id).hidden = false;
  get("save").disabled = false;
  const names = Object.keys(result.columns);
  const feature = get("feature").value;
  get("feature").replaceChildren(...names.map((name) => new Option(name.replace("^2", "²"), name)));
  get("feature").value = names.includes(feature) ? feature : names[0] ?? "";
  get("warnings").replaceChildren(...result.warnings.map((text) => {
    const item = document.createElement("li");
    item.textContent = sentence(text);
    return item;
  }));
  const size = get("size").value ? { x: Number(get("size").value) } : picture?.about.pixel_size_um;
  get("about").textContent = [
    `${title(result)}`,
    picture && `${picture.width} × ${picture.height} pixels`,
    size ? `${short(size.x)} µm each` : "pixel size unknown",
  ].filter(Boolean).join(" · ");
  list.show(result, get("feature").value);
  changed();
  say(`${result.count} nuclei found${result.warnings.length ? `, ${result.warnings.length} warning${result.warnings.length > 1 ? "s" : ""}` : ""}.`);
}

/** What is kept has changed, or what is highlighted. */
function changed() {
  const out = result.count - result.kept;
  if (isOfNow()) Object.assign(frame, { discarded: result.discarded.slice(), discard: result.discardedLabels(), kept: result.kept });
  frames.redraw(frame);
  get("count").querySelector("strong").textContent = result.kept;
  get("count").querySelector("span").textContent = (result.kept === 1 ? "nucleus" : "nuclei") + (out ? `, ${out} discarded` : "");
  get("keep-all").disabled = !out;
  brush();
  list.redraw();
  legend();
}

function toggle(row, keep = result.discarded[row]) {
  result.discarded[row] = keep ? 0 : 1;
  changed();
}

function select(row) {
  result.selected = row;
  viewers[0].reach(row);
  viewers[0].redraw();
  list.redraw();
}

function discardWhere(test) {
  for (let row = 0; row < result.count; row++) if (test(row)) result.discarded[row] = 1;
  range = null;
  changed();
}

function brush() {
  const name = get("feature").value, values = result.columns[name] ?? new Float64Array(0);
  result.brushed = null;
  let inside = 0;
  if (range) {
    result.brushed = Uint8Array.from(values, (value) => value >= range[0] && value <= range[1]);
    inside = result.brushed.reduce((sum, one, row) => sum + (one && !result.discarded[row]), 0);
  }
  histogram.draw(values, result.discarded, range, name);
  ["from", "to"].forEach((id, at) => { get(id).value = Number.isFinite(range?.[at]) ? Number(range[at].toPrecision(5)) : ""; });
  get("brushed").textContent = range ? `${inside} of ${result.kept} nuclei are highlighted.` : "Drag across the histogram to highlight nuclei.";
  get("discard-brushed").disabled = !inside;
  get("discard-others").disabled = !inside || inside === result.kept;
  viewers[0].redraw();
}

function typed() {
  const [from, to] = [get("from").value, get("to").value];
  range = from || to ? [from ? Number(from) : -Infinity, to ? Number(to) : Infinity] : null;
  changed();
}

function legend() {
  const shown = [["kept", "nucleus"]];
  if (result?.matched) shown.splice(0, 1, ["kept", "in both"], ["only", "only here"]);
  if (result?.brushed) shown.push(["brushed", "highlighted"]);
  if (result && result.kept < result.count) shown.push(["out", "discarded"]);
  get("legend").replaceChildren(...(result ? shown : []).map(([style, text]) => {
    const item = document.createElement("span"), mark = document.createElement("i");
    mark.style.borderColor = COLOURS[style];
    item.append(mark, text);
    return item;
  }));
}

// --- The picture ------------------------------------------------------------------------------

function showBrightness() {
  get("contrast").hidden = false;
  const [lo, hi] = picture.auto;
  // The sliders reach a little past what is there, so that they are not all in one corner.
  const most = Math.min(picture.white, hi + 2 * (hi - lo)), least = Math.max(0, lo - (hi - lo));
  for (const id of ["black", "white"]) Object.assign(get(id), { min: Math.floor(least), max: Math.ceil(most) });
  setBrightness(lo, hi);
}

function setBrightness(black, white) {
  get("black").value = black;
  get("white").value = white;
  get("black-said").textContent = short(picture.value(Number(get("black").value)));
  get("white-said").textContent = short(picture.value(Number(get("white").value)));
}

let brightening = false;
async function brighten(moved) {
  let black = Number(get("black").value), white = Number(get("white").value);
  if (black >= white) {
    if (moved === "black") white = black + 1;
    else black = white - 1;
  }
  setBrightness(black, white);
  picture.show([black, white]);
  if (brightening) return; // the newest is shown once that one is
  brightening = true;
  do {
    var shown = picture.range;
    await Promise.all(viewers.filter((_, at) => at === 0 || !get("pane-b").hidden).map((viewer) => viewer.show(picture)));
  } while (shown !== picture.range);
  brightening = false;
}

function hover(row, x, y, viewer) {
  const card = get("card"), nuclei = viewer?.nuclei;
  card.hidden = row < 0;
  if (row < 0) return;
  const lines = SHOWN.filter((name) => name in nuclei.columns).map((name) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name.replace("^2", "²");
    dd.textContent = short(nuclei.columns[name][row]);
    return [dt, dd];
  });
  const head = document.createElement("strong"), features = document.createElement("dl");
  head.textContent = `Nucleus ${nuclei.labels[row]}${nuclei.discarded[row] ? ", discarded" : ""}`;
  features.append(...lines.flat());
  card.replaceChildren(head, features);
  const stage = get("stage").getBoundingClientRect(), pane = viewer.element.getBoundingClientRect();
  const left = pane.left - stage.left + x, top = pane.top - stage.top + y;
  card.style.left = `${left + 18 + card.offsetWidth > stage.width ? left - 18 - card.offsetWidth : left + 18}px`;
  card.style.top = `${Math.min(top + 12, stage.height - card.offsetHeight - 4)}px`;
}

function makeViewer(pane) {
  const element = pane.querySelector(".view");
  const viewer = new Viewer(element, {
    hover,
    move: (moved) => {
      for (const each of viewers) if (each !== moved && moved.led) each.follow(moved);
    },
    click: (row) => {
      if (viewer !== viewers[0]) return; // the other is for comparison
      result.selected = row;
      toggle(row);
    },
  });
  viewer.element = element;
  // Of two, the one that is used leads the other.
  for (const event of ["pointerdown", "wheel", "keydown", "pointerenter"]) {
    element.addEventListener(event, () => { for (const each of viewers) each.led = each === viewer; }, { capture: true, passive: true });
  }
  viewer.led = pane.id === "pane-a";
  return viewer;
}

// --- Downloads --------------------------------------------------------------------------------

function describeFormat() {
  const format = get("format").value;
  get("format-about").textContent = FORMATS[format]?.[1] ?? "";
  get("all-about").textContent = frames.all.length < 2 ? "" : `A zip: ${format === "csv" ? "nuclei.csv, one table with the frame in the first column" : "one file for each frame"}, and frames.csv, one line with the count of each frame.`;
}

/** The results of a frame in a format: what is kept, by the version that found it. */
function fetched(of, format, signal) {
  const { options, version } = of.found;
  const params = query(of, { ...options, version, format });
  return call(`/v1/segment?${params}`, { method: "POST", body: form(of.file, of.discard ? { discard: of.discard } : {}), signal, waiting: wait });
}

function fileName(of, format) {
  const stem = of.name.replace(/(\.ome)?\.\w+$/i, "");
  return `${stem}_${format.includes(".") ? format : `nuclei.${format}`}${format.endsWith(".zarr") ? ".zip" : ""}`;
}

function hand(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function save() {
  const format = get("format").value, name = fileName(frame, format);
  get("save").disabled = true;
  busy("Making the file …");
  try {
    hand(await (await fetched(frame, format)).blob(), name);
    say(`${name} is saved.`);
  } catch (error) {
    fail(error);
  } finally {
    get("save").disabled = !isOfNow();
    busy("");
  }
}

let saving = null; // AbortController of the zip that is made

async function saveAll() {
  if (saving) return saving.abort();
  const format = get("format").value, { signal } = (saving = new AbortController());
  const told = (done) => { get("save-all").textContent = `Stop: ${done} of ${frames.all.length} are packed`; };
  try {
    const { blob, failed } = await frames.zip(format === "csv", (of) => fileName(of, format), (of) => fetched(of, format, signal), told);
    hand(blob, "nuclei.zip");
    say(`nuclei.zip is saved.${failed.length ? ` Without ${failed.length} that failed: ${failed.slice(0, 3).join(", ")}${failed.length > 3 ? " …" : ""}` : ""}`);
  } catch (error) {
    if (error.name === "AbortError") say("The zip was left off.");
    else fail(error);
  } finally {
    saving = null;
    busy("");
    frames.redraw();
  }
}

// --- What happens -----------------------------------------------------------------------------

function start() {
  running?.abort();
  comparing?.abort();
  running = new AbortController();
  get("problem").hidden = true;
  return running.signal;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function say(text) { get("status").textContent = text; }
function wait(seconds) { busy(`The server is busy; asking again in ${Math.ceil(seconds)} s …`); }

function busy(text) {
  get("busy").hidden = !text;
  get("busy").querySelector("span").textContent = text;
}

function fail(error) {
  busy("");
  const text = error instanceof Problem ? error.message : "this page failed; its console says why";
  if (!(error instanceof Problem)) console.error(error);
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Try again";
  again.onclick = () => {
    if (!frame) return begin();
    if (frame.state === "failed") frame.forget();
    read();
  };
  get("problem").replaceChildren(`${sentence(text)} `, again);
  get("problem").hidden = false;
  if (frame && !picture) { get("desk").hidden = true; get("open").hidden = false; }
}

const histogram = new Histogram(get("histogram"), (dragged) => { range = dragged; changed(); });
const list = new List({ choose: select, toggle, reach: (row) => viewers[0].reach(row, true) });
viewers = [makeViewer(get("pane-a"))];
const frames = new Frames({ show, find, remove });

get("choose").onclick = get("another").onclick = () => get("file").click();
get("file").onchange = () => { open(get("file").files); get("file").value = ""; };
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  open(event.dataTransfer.files);
});
addEventListener("paste", (event) => open(event.clipboardData.files));
fields.model.onchange = fields.tta.onchange = () => { chooseModel(); segment(); };
fields.channel.onchange = chooseChannel;
fields.plane.onchange = fields.project.onchange = choosePlane;
get("size").onchange = () => segment();
get("compare").onchange = () => compare();
get("outlines").onchange = () => { for (const viewer of viewers) { viewer.outlines = get("outlines").checked; viewer.redraw(); } };
get("closer").onclick = () => zoom(1.5);
get("wider").onclick = () => zoom(1 / 1.5);
get("fit").onclick = () => viewers.forEach((viewer) => viewer.fit());
get("black").oninput = () => brighten("black");
get("white").oninput = () => brighten("white");
get("auto").onclick = () => { setBrightness(...picture.auto); brighten(); };
get("feature").onchange = () => { range = null; list.show(result, get("feature").value); changed(); };
get("from").onchange = get("to").onchange = typed;
get("clear").onclick = () => { range = null; changed(); };
get("discard-brushed").onclick = () => { const { brushed } = result; discardWhere((row) => brushed[row]); };
get("discard-others").onclick = () => { const { brushed } = result; discardWhere((row) => !brushed[row]); };
get("keep-all").onclick = () => { result.discarded.fill(0); changed(); };
get("format").onchange = describeFormat;
get("save").onclick = save;
get("save-all").onclick = saveAll;
get("remove").onclick = () => remove(frame);
get("earlier").onclick = () => show(frames.beside(-1));
get("later").onclick = () => show(frames.beside(1));

function zoom(times) {
  for (const viewer of viewers) viewer.led = viewer === viewers[0];
  viewers[0].zoom(times);
}

async function begin() {
  try {
    await learned();
  } catch (error) {
    fail(error);
  }
}

begin();

// What is registered: versions, what their gates said, and for the administrator what answers.

import { call } from "./api.js";
import { short } from "./histogram.js";

const PATH = "/v1/registry";
const SHOWN = 6; // versions of a model, before the others are asked for
const POLL_MS = 1000, ANSWERS_WITHIN_MS = 300_000;

const get = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
const quiet = (text) => make("p", { className: "quiet", textContent: text });
const day = (seconds) => new Date(1000 * seconds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
const ACTIONS = {
  promote: "put in use", rollback: "taken back", challenge: "put on trial", abort: "trial ended", adopt: "taken over as found",
};

export class Registry {
  #place;
  #commands;
  #report = null;
  #shown = ""; // the report as it was drawn: what is the same is left, with its focus
  #all = new Set(); // models of which all versions are shown
  #gates = new Map(); // the gates of a version, by its key, once they were asked for
  #said = new Map(); // what becomes of a change, by model
  #busy = false;

  /**
   * @param {HTMLElement} place of the models.
   * @param {HTMLElement} commands the section that is shown where nothing can be changed.
   */
  constructor(place, commands) {
    this.#place = place;
    this.#commands = commands;
    this.family = "unet"; // of the model that a caller gets without a name
  }

  /** Read the registry again, and draw what has changed. */
  async show() {
    if (this.#busy) return;
    this.#busy = true;
    try {
      this.#report = await (await call(PATH, { patient: false })).json();
      if (!this.#report.writable) this.#explain("Nobody can change that on this page, because this service has no administrator's token (NUCLEI_ADMINISTRATOR_TOKEN).");
      else this.#commands.hidden = true;
      this.#draw();
    } catch (error) {
      if (error.said?.status === 404) this.#explain("This service does not know the registry of models (NUCLEI_REGISTRY, which nuclei serve --sync sets), so this page cannot say what the gates found.");
      else this.#fail(error);
    } finally {
      this.#busy = false;
    }
  }

  #explain(why) {
    get("change-why").textContent = `${why} Versions are judged, promoted and rolled back by whoever may write to the registry:`;
    this.#commands.querySelector("pre").textContent = [
      ["nuclei models", "versions, their scores, gates and aliases"],
      [`nuclei gate VERSION --model ${this.family}`, "judge one"],
      [`nuclei promote ${this.family} VERSION`, "put it in use"],
      [`nuclei rollback ${this.family}`, "back to the one before"],
    ].map(([command, what]) => `${command.padEnd(36)}# ${what}`).join("\n");
    this.#commands.hidden = false;
  }

  #fail(error) {
    this.#report = null;
    this.#shown = "";
    this.#place.replaceChildren(make("section", {}, make("h2", { textContent: "Registered versions" }),
      make("p", { className: "trouble", textContent: `${sentence(error.message)} What is served above goes on. Trying again …` })));
  }

  #draw() {
    const now = JSON.stringify([this.#report, [...this.#all], [...this.#gates], [...this.#said]]);
    if (now === this.#shown) return;
    this.#shown = now;
    const focused = document.activeElement?.id;
    const open = new Set([...this.#place.querySelectorAll("details[open]")].map(({ id }) => id));
    this.#place.replaceChildren(...this.#report.models.map((model) => this.#model(model)));
    for (const details of this.#place.querySelectorAll("details")) details.open = open.has(details.id);
    if (focused && focused !== document.activeElement?.id) get(focused)?.focus();
  }

  #model(model) {
    const { name, versions, changes, problems } = model;
    const all = this.#all.has(name) || versions.length <= SHOWN + 1;
    const shown = versions.filter(({ version }, at) => all || at < SHOWN || version === model.champion || version === model.trial?.version);
    const more = make("button", { type: "button", id: `all-${name}`, textContent: `Show all ${versions.length} versions` });
    more.onclick = () => { this.#all.add(name); this.#draw(); };
    return make("section", {},
      make("h2", { textContent: `${name}: registered versions` }),
      this.#state(model),
      make("p", { id: `said-${name}`, className: "said", role: "status", textContent: this.#said.get(name) ?? "" }),
      make("ul", { className: "versions" }, ...shown.map((version) => this.#version(model, version))),
      ...(all ? [] : [make("p", {}, more)]),
      ...(changes.length ? [make("h3", { textContent: "Last changes" }), make("ul", { className: "changes" }, ...changes.map(changed))] : []),
      ...problems.map((text) => make("p", { className: "trouble", textContent: sentence(text) })));
  }

  #state(model) {
    const { name, champion, trial, rollback, processes } = model;
    const parts = [champion === null ? "No version is in use yet." : `Version ${champion} is in use.`];
    if (trial) parts.push(`Version ${trial.version} is on trial, phase ${trial.phase} of ${trial.phases}: ${trial.mode === "canary" ? `it answers ${short(100 * trial.fraction)} % of the callers` : `it segments ${short(100 * trial.fraction)} % of the frames as well, and its answers are only compared`}.`);
    if (!processes) parts.push("No sync process has spoken in the last 90 s: nothing serves what the registry says. Start nuclei sync beside each Triton, or nuclei serve with --sync.");
    const paragraph = make("p", {}, `${parts.join(" ")} `);
    if (!rollback || !this.#report.writable) return paragraph;
    const back = make("button", { type: "button", id: `back-${name}`, textContent: trial ? `End the trial of version ${rollback.version} …` : `Go back to version ${rollback.champion} …` });
    back.onclick = () => this.#confirmRollback(model);
    return make("div", { className: "row state" }, paragraph, back);
  }

  #version(model, entry) {
    const { version, gates, adopted, refusal, scores, registered, licence, approval, loaded } = entry;
    const key = `${model.name}-${version}`;
    const inUse = version === model.champion, onTrial = version === model.trial?.version;
    const verdict = gates ? (gates.passed ? "passed" : "refused") : "none";
    const said = gates ? sentence(gates.reason) : adopted ? "Served before there were gates, and never judged." : "Not judged yet.";
    const facts = [
      ...Object.entries(scores).map(([name, value]) => `${name.replaceAll("_", " ").replace("dsb", "DSB").replace("tta/", "with 8 views: ")} ${Number(value).toFixed(3)}`),
      `registered ${day(registered)}`,
      licence && `licence ${licence}`,
      approval && `approved by ${approval}`,
      model.processes ? `loaded by ${loaded} of ${model.processes} processes` : "",
    ].filter(Boolean);
    const details = make("details", { id: `gates-${key}` }, make("summary", { textContent: "Each gate" }), this.#gates.get(key)?.content() ?? quiet("…"));
    details.addEventListener("toggle", () => details.open && !this.#gates.has(key) && this.#askGates(model.name, version, key));
    const put = make("button", { type: "button", id: `put-${key}`, textContent: "Put in use …" });
    put.setAttribute("aria-label", `Put version ${version} of ${model.name} in use`);
    put.onclick = () => this.#confirmPromotion(model, entry);
    const why = model.trial ? `A trial is under way; end it first.` : refusal;
    return make("li", {},
      make("div", {}, make("h3", { textContent: `Version ${version}` }),
        ...(inUse ? [make("span", { className: "chip use", textContent: "in use" })] : []),
        ...(onTrial ? [make("span", { className: "chip", textContent: "on trial" })] : [])),
      make("div", {},
        make("p", {}, make("span", { className: `chip ${verdict}`, textContent: { passed: "gates passed", refused: "gates refused", none: "no gates" }[verdict] }),
          ` ${said}${gates?.against === "none" ? " It was compared with no other version: whether it is better is not known." : gates?.against ? ` Compared with ${gates.against}.` : ""}`),
        quiet(facts.join(" · ")),
        ...(gates ? [details] : [])),
      make("div", {}, ...(inUse ? [] : this.#report.writable && !why ? [put] : why ? [quiet(why === refusal && gates && !gates.passed ? "The gates refuse it." : sentence(why))] : [])));
  }

  async #askGates(model, version, key) {
    let content;
    try {
      const { gates } = await (await call(`${PATH}/${model}/${version}/gates`, { patient: false })).json();
      content = () => make("table", { className: "facts gates" }, make("tbody", {}, ...gates.map(gate)));
    } catch (error) {
      content = () => make("p", { className: "trouble", textContent: sentence(error.message) });
    }
    this.#gates.set(key, { content });
    get(`gates-${key}`)?.lastChild.replaceWith(content());
  }

  #confirmPromotion(model, { version, gates }) {
    const { name, champion } = model;
    this.#confirm({
      model: name, version,
      title: `Put version ${version} of ${name} in use?`,
      what: [
        champion === null ? `Version ${version} becomes the first that answers.` : `Version ${version} will answer every caller instead of version ${champion}, except those who ask for a version by its number.`,
        `Its files are compared with those that passed the gates; then each sync process loads it, lets it segment its reference image, and switches. No frame is lost.`,
        ...(gates?.against === "none" ? ["Its gates compared it with no version: whether it is better, only callers will tell."] : []),
        make("span", {}, "To try it first on a part of the frames, use the command ", make("code", { textContent: `nuclei promote ${name} ${version} --shadow 10%` }), "."),
        champion === null ? "" : `Version ${champion} stays loaded, so that going back takes seconds.`,
      ],
      label: `Put version ${version} in use`,
      doing: `Comparing the files of version ${version} with those of the gates …`,
      path: "promote", body: { version, champion },
    });
  }

  #confirmRollback({ name, trial, rollback: { version, champion } }) {
    this.#confirm({
      model: name, version: champion,
      title: trial ? `End the trial of version ${version} of ${name}?` : `Take back version ${version} of ${name}?`,
      what: trial
        ? [`Version ${version} gets no more frames. Version ${champion} goes on answering every caller.`]
        : [`Version ${champion} will answer every caller instead of version ${version}, except those who ask for a version by its number.`, "No frame is lost. Version " + version + " can be put in use again."],
      label: trial ? "End the trial" : `Go back to version ${champion}`,
      doing: "Changing the registry …",
      path: "rollback", body: { version, champion },
    });
  }

  #confirm({ model, version, title, what, label, doing, path, body }) {
    const dialog = get("confirm"), act = get("confirm-do");
    get("confirm-title").textContent = title;
    get("confirm-what").replaceChildren(...what.filter(Boolean).map((text) => make("li", {}, text)));
    get("confirm-why").value = get("confirm-doing").textContent = get("confirm-problem").textContent = "";
    act.textContent = label;
    act.disabled = false;
    act.onclick = async () => {
      act.disabled = true;
      get("confirm-problem").textContent = "";
      get("confirm-doing").textContent = doing;
      try {
        const asked = { method: "POST", administrator: true, patient: false, headers: { "Content-Type": "application/json" } };
        const answer = await call(`${PATH}/${model}/${path}`, { ...asked, body: JSON.stringify({ ...body, why: get("confirm-why").value }) });
        const { changed } = await answer.json();
        dialog.close();
        if (changed) this.#follow(model, version);
        else this.#say(model, `Version ${version} was in use already.`);
      } catch (error) {
        if (error.name !== "AbortError") get("confirm-problem").textContent = sentence(error.message);
      } finally {
        act.disabled = false;
        get("confirm-doing").textContent = "";
      }
    };
    // Enter in the line of text is no consent.
    dialog.querySelector("form").onsubmit = (event) => { if (event.submitter !== get("confirm-leave")) event.preventDefault(); };
    get("confirm-why").onkeydown = (event) => { if (event.key === "Enter") event.preventDefault(); };
    dialog.showModal();
  }

  /** Say how far a version is, until callers of this service get it. */
  async #follow(model, version) {
    const started = performance.now(), family = (name) => `nuclei-${name.replaceAll("_", "-")}`;
    const since = () => `${Math.round((performance.now() - started) / 1000)} s`;
    this.#say(model, `Version ${version} is the champion now; it answers soon …`);
    while (performance.now() - started < ANSWERS_WITHIN_MS) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      try {
        const { doing } = await (await call(`${PATH}/${model}/${version}/progress`, { administrator: true, patient: false })).json();
        const { models } = await (await call("/v1/models")).json();
        const served = models.find(({ name }) => name === model || family(name) === model);
        if (!doing && String(served?.version) === String(version)) return this.#say(model, `Version ${version} answers, ${since()} after it was chosen.`);
        this.#say(model, `${sentence(doing ?? `this service has not seen version ${version} yet`)} ${since()} …`);
      } catch (error) {
        if (error.name === "AbortError") return;
        return this.#say(model, sentence(error.message));
      }
    }
    this.#say(model, `Version ${version} is the champion, but after ${since()} it does not answer yet. The log of sync says why.`);
  }

  #say(model, text) {
    this.#said.set(model, text);
    if (get(`said-${model}`)) get(`said-${model}`).textContent = text;
    this.show();
  }
}

function changed({ at, action, from_version: from, to_version: to, why }) {
  const what = action === "abort" ? `${from}: ${ACTIONS.abort}` : action === "rollback" ? `${from} ${ACTIONS.rollback}, ${to} in use again` : `${to} ${ACTIONS[action] ?? action}${from && action === "promote" ? ` instead of ${from}` : ""}`;
  return make("li", { textContent: `${day(at)}: version ${what}${why ? `. ${sentence(why)}` : ""}` });
}

function gate({ name, figure, bound, passed, sentence: said }) {
  const shown = typeof figure === "number" ? short(figure) : figure ?? "";
  return make("tr", {}, make("th", { scope: "row", textContent: name }),
    make("td", {}, make("span", { className: `chip ${passed ? "passed" : "refused"}`, textContent: passed ? "passed" : "refused" })),
    make("td", { textContent: `${[shown, bound].filter(Boolean).join(", ")}. ${said ? sentence(said) : ""}` }));
}

"use strict";

// Shows the values at the cursor, fetches the page anew, and nothing else: everything is drawn by
// the server, and can be read without this script.

const pause = document.getElementById("pause");
const every = Number(pause.dataset.every) * 1000;
pause.hidden = false;
pause.addEventListener("click", () => {
  const paused = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", String(paused));
  pause.textContent = paused ? "Go on" : "Pause";
  if (!paused) refresh();
});

// A cursor in a chart, or a choice that is being made, is not taken from under the reader's hand.
function isBusy() {
  return pause.getAttribute("aria-pressed") === "true" || document.hidden ||
    document.querySelector(".cursor[x1], form.choices :focus") !== null;
}

function say(problem) {
  let line = document.getElementById("silent");
  if (problem && !line) {
    line = document.createElement("p");
    line.id = "silent";
    line.className = "problem";
    line.setAttribute("role", "alert");
    document.getElementById("main").prepend(line);
  }
  if (line) {
    line.textContent = problem;
    line.hidden = !problem;
  }
}

async function refresh() {
  try {
    const reply = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fetched = new DOMParser().parseFromString(await reply.text(), "text/html");
    const focused = document.activeElement?.closest("[id]")?.id;
    document.title = fetched.title;
    const chart = document.activeElement?.classList.contains("chart");
    const open = document.getElementById("suppressed")?.open;
    document.getElementById("main").replaceChildren(...fetched.getElementById("main").childNodes);
    if (open) document.getElementById("suppressed")?.setAttribute("open", "");
    const again = focused && document.getElementById(focused);
    if (again) (chart ? again.querySelector(".chart") : again)?.focus({ preventScroll: true });
  } catch {
    say("The server of this page does not answer: is `make monitor` still running? " +
      "What is shown is old.");
  }
}

setInterval(() => {
  if (!isBusy()) refresh();
}, every);


function pointAt(chart, number) {
  const times = JSON.parse(chart.dataset.times);
  const values = JSON.parse(chart.dataset.values);
  const at = Math.max(0, Math.min(times.length - 1, number));
  chart.dataset.at = at;
  const x = `${(100 * at) / Math.max(1, times.length - 1)}%`;
  const cursor = chart.querySelector(".cursor");
  cursor.setAttribute("x1", x);
  cursor.setAttribute("x2", x);
  const legend = chart.parentElement.querySelector(".legend");
  legend.querySelector(".at").textContent = times[at];
  legend.querySelectorAll(".now").forEach((cell, row) => {
    cell.dataset.now ??= cell.textContent;
    cell.textContent = values[row][at];
  });
}

function leave(chart) {
  delete chart.dataset.at;
  const cursor = chart.querySelector(".cursor");
  cursor.removeAttribute("x1");
  cursor.removeAttribute("x2");
  const legend = chart.parentElement.querySelector(".legend");
  legend.querySelector(".at").textContent = "";
  legend.querySelectorAll(".now").forEach((cell) => {
    cell.textContent = cell.dataset.now ?? cell.textContent;
  });
}

function chartOf(event) {
  return event.target.closest?.(".chart[data-times]") ?? null;
}

document.addEventListener("pointermove", (event) => {
  const chart = chartOf(event);
  for (const other of document.querySelectorAll(".chart[data-at]")) {
    if (other !== chart) leave(other);
  }
  if (!chart) return;
  const box = chart.querySelector(".plot").getBoundingClientRect();
  const count = JSON.parse(chart.dataset.times).length;
  pointAt(chart, Math.round(((event.clientX - box.left) / box.width) * (count - 1)));
});

document.addEventListener("keydown", (event) => {
  const chart = chartOf(event);
  if (!chart) return;
  const count = JSON.parse(chart.dataset.times).length;
  const at = chart.dataset.at === undefined ? count : Number(chart.dataset.at);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: count - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    pointAt(chart, to);
  } else if (event.key === "Escape") {
    leave(chart);
  }
});

document.addEventListener("focusout", (event) => {
  const chart = chartOf(event);
  if (chart && chart.dataset.at !== undefined) leave(chart);
});

document.addEventListener("pointerleave", () => {
  document.querySelectorAll(".chart[data-at]").forEach(leave);
});

// A choice takes effect at once.
document.addEventListener("change", (event) => event.target.closest("form.choices")?.submit());

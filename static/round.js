// A round's page: draws the charts from the figures in #live-round and keeps them as
// they grow. Colours come from the style sheet, words from data attributes. Needs app.js;
// without this script the page still shows everything but the curves.
"use strict";

const SHORT = {
  "rewards/chosen": "chosen",
  "rewards/rejected": "rejected",
  "rewards/margins": "margins",
  "rewards/accuracies": "accuracies",
  loss: "loss",
};
// No two of them say the same.
const CONTROLS = ":is(#live-round, #round-details) :is(a, button, summary)";
const section = document.getElementById("charts");
const charts = {};
let openBefore = new Set();
let focusBefore = "";
let lastAnswer = "";
let lastState = live().dataset.state;

function live() {
  return document.getElementById("live-round");
}

function dataset(line) {
  const isHeldOut = line.name.startsWith("eval_");
  const short = SHORT[line.name.replace(/^eval_/, "")];
  const words = section.dataset[short];
  const color = css(`--series-${short}`);
  return {
    key: line.name,
    label: isHeldOut ? `${words} (${section.dataset.heldOut})` : words,
    data: line.points.map(([x, y]) => ({ x, y })),
    borderColor: color,
    backgroundColor: color,
    borderWidth: short === "margins" ? 2.5 : 1.75,
    borderDash: isHeldOut ? [6, 5] : [],
    pointRadius: isHeldOut || line.points.length === 1 ? 3.5 : 0,
    pointHoverRadius: 4.5,
    pointHitRadius: 12,
    clip: 6,
  };
}

function options(kind) {
  const ink = css("--soft");
  const grid = css("--line");
  const number = (value) => Number(value).toPrecision(3);
  // Of a single step Chart.js makes two ticks, with all their decimals; and it ticks the
  // last step however close the tick before it is, whose number then would lie under its.
  const whole = (value, place, ticks) => {
    const isCrowded = place > 0 && place === ticks.length - 2 && ticks.at(-1).value - value < 0.7 * (value - ticks[place - 1].value);
    return Number.isInteger(value) && value !== ticks[place - 1]?.value && !isCrowded
      ? value.toLocaleString(document.documentElement.lang)
      : null;
  };
  const axis = { ticks: { color: ink, maxRotation: 0 }, grid: { color: grid }, border: { color: grid } };
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    interaction: { mode: "index", axis: "x", intersect: false },
    font: { family: css("--text") },
    scales: {
      x: { ...axis, type: "linear", bounds: "data", title: { display: true, text: section.dataset.step, color: ink }, ticks: { ...axis.ticks, precision: 0, maxTicksLimit: 10, callback: whole } },
      y: { ...axis, ...(kind === "accuracy" ? { min: 0, max: 1 } : {}), ticks: { ...axis.ticks, maxTicksLimit: 7 } },
    },
    plugins: {
      legend: { labels: { color: css("--ink"), boxWidth: 26, boxHeight: 0 } },
      tooltip: {
        boxWidth: 10,
        boxHeight: 10,
        boxPadding: 4,
        callbacks: {
          title: (items) => (items.length ? `${section.dataset.step} ${items[0].parsed.x}` : ""),
          label: (item) => `${item.dataset.label}: ${number(item.parsed.y)}`,
        },
      },
    },
  };
}

function draw() {
  const series = JSON.parse(live().dataset.series);
  const isEmpty = Object.values(series).every((lines) => lines.length === 0);
  section.hidden = isEmpty;
  if (isEmpty) return;
  for (const [kind, lines] of Object.entries(series)) {
    const fresh = lines.map(dataset);
    if (!charts[kind]) {
      const canvas = document.getElementById(`chart-${kind}`);
      charts[kind] = new Chart(canvas, { type: "line", data: { datasets: fresh }, options: options(kind) });
      continue;
    }
    const chart = charts[kind];
    const byKey = new Map(chart.data.datasets.map((known) => [known.key, known]));
    // The same objects stay, so that a line somebody has hidden stays hidden.
    chart.data.datasets = fresh.map((line) => Object.assign(byKey.get(line.key) || {}, line));
    chart.update("none");
  }
}

function redraw() {
  for (const kind of Object.keys(charts)) {
    charts[kind].destroy();
    delete charts[kind];
  }
  draw();
}

// The browser answers a 304 from its cache, so htmx sees the same text again: then
// nothing is swapped, and neither a selection nor an open menu is disturbed.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (event.detail.elt.id !== "live-round") return;
  if (xhr.status === 200 && xhr.responseText === lastAnswer) event.detail.shouldSwap = false;
  lastAnswer = xhr.responseText;
  openBefore = new Set([...document.querySelectorAll("main details[open]")].map((d) => d.id));
  focusBefore = document.activeElement?.matches(CONTROLS) ? document.activeElement.textContent : "";
});

document.addEventListener("htmx:afterSettle", () => {
  for (const id of openBefore) {
    const details = id && document.getElementById(id);
    if (details) details.open = true;
  }
  if (focusBefore && document.activeElement === document.body) {
    const same = [...document.querySelectorAll(CONTROLS)].find((one) => one.textContent === focusBefore);
    same?.focus({ preventScroll: true });
  }
  if (live().dataset.state !== lastState) {
    lastState = live().dataset.state;
    document.getElementById("live").textContent = live().dataset.said;
  }
  draw();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
draw();

// Draws each figure[data-chart] from the numbers of its own table, so that the two cannot
// differ, and folds the table away. A column with data-kind is a series ("bar" or "line");
// a cell's data-value is drawn, data-low and data-high are its interval, and its text is
// what the pointer shows. Needs app.js; without this script the table stands there open.
"use strict";

const drawn = new Map();

function numberOf(text) {
  return text === undefined || text === "" ? null : Number(text);
}

function read(figure) {
  const table = figure.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  const labels = rows.map((row) => row.cells[0].dataset.label || row.cells[0].textContent.trim());
  const titles = rows.map((row) => row.cells[0].textContent.trim());
  const series = [];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (!head.dataset.kind) return;
    const cells = rows.map((row) => row.cells[column]);
    series.push({
      name: head.textContent.trim(),
      kind: head.dataset.kind,
      values: cells.map((cell) => numberOf(cell.dataset.value)),
      lows: cells.map((cell) => numberOf(cell.dataset.low)),
      highs: cells.map((cell) => numberOf(cell.dataset.high)),
      texts: cells.map((cell) => cell.innerText.trim().replace(/\s+/g, " ")),
    });
  });
  return { labels, titles, series };
}

function datasets(series) {
  return series.flatMap((line, place) => {
    const color = css(`--chart-${place + 1}`);
    const shared = { label: line.name, data: line.values, texts: line.texts, borderColor: color, backgroundColor: color };
    if (line.kind === "bar") return [{ ...shared, type: "bar", order: 2, backgroundColor: css(`--chart-${place + 1}-fill`), borderWidth: 1, maxBarThickness: 26, borderRadius: 2 }];
    const main = { ...shared, type: "line", order: 1, borderWidth: 2, pointRadius: line.values.length > 14 ? 2 : 4, pointHoverRadius: 6, spanGaps: true };
    if (!line.lows.some((low) => low !== null)) return [main];
    const edge = { type: "line", order: 3, isBand: true, borderWidth: 0, pointRadius: 0, pointHoverRadius: 0, spanGaps: true, backgroundColor: css("--chart-band") };
    return [{ ...edge, data: line.lows, fill: false }, { ...edge, data: line.highs, fill: "-1" }, main];
  });
}

function options(figure, titles) {
  const ink = css("--soft");
  const grid = css("--line");
  const axis = { ticks: { color: ink, maxRotation: 0 }, border: { color: grid } };
  const isNoBand = (item) => !item.dataset.isBand;
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    interaction: { mode: "index", axis: "x", intersect: false },
    font: { family: css("--text") },
    scales: {
      x: { ...axis, grid: { display: false }, ticks: { ...axis.ticks, autoSkip: true, autoSkipPadding: 12 } },
      y: {
        ...axis,
        grid: { color: grid },
        beginAtZero: true,
        suggestedMin: numberOf(figure.dataset.least) ?? undefined,
        suggestedMax: numberOf(figure.dataset.most) ?? undefined,
        ticks: { ...axis.ticks, maxTicksLimit: 6, ...("whole" in figure.dataset ? { precision: 0 } : {}) },
      },
    },
    plugins: {
      legend: {
        labels: { color: css("--ink"), boxWidth: 18, boxHeight: 8, sort: (one, other) => one.datasetIndex - other.datasetIndex, filter: (item, data) => !data.datasets[item.datasetIndex].isBand },
      },
      tooltip: {
        filter: isNoBand,
        boxWidth: 10,
        boxHeight: 10,
        boxPadding: 4,
        callbacks: {
          title: (items) => (items.length ? titles[items[0].dataIndex] : ""),
          label: (item) => `${item.dataset.label}: ${item.dataset.texts[item.dataIndex]}`,
        },
      },
    },
  };
}

function draw(figure) {
  const { labels, titles, series } = read(figure);
  if (drawn.has(figure)) drawn.get(figure).destroy();
  drawn.set(figure, new Chart(figure.querySelector("canvas"), { data: { labels, datasets: datasets(series) }, options: options(figure, titles) }));
}

function drawAll() {
  for (const figure of document.querySelectorAll("figure[data-chart]")) draw(figure);
}

drawAll();
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  figure.querySelector("details").open = false;
  figure.classList.add("drawn");
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

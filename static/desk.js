// Around the pair: drawers that may stay open beside it, criteria one after the other,
// a gentle word about breaks, and what was typed for pairs that are gone.
"use strict";

const desk = document.querySelector(".desk");
const WIDE = matchMedia("(min-width: 80rem) and (min-height: 36.01rem)");
const BREAK_MS = Number(desk.dataset.breakMinutes) * 60_000;
const AWAY_MS = 5 * 60_000;
let criterion = null;

// --- Drawers ---
// On a wide screen they stand beside the answers and stay; else they lie over the page.
function openDock(dock) {
  dock.setAttribute("closedby", WIDE.matches ? "none" : "any");
  if (WIDE.matches) dock.setAttribute("open", "");
  else dock.showModal();
  refreshDock(dock);
}

function refreshDock(dock) {
  const body = dock.querySelector(".dock-body");
  if (body && dock.open) htmx.trigger(body, "refresh");
}

function showDocks() {
  for (const opener of document.querySelectorAll("[data-opens]")) {
    opener.setAttribute("aria-expanded", document.getElementById(opener.dataset.opens).open);
  }
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (!opener || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const dock = document.getElementById(opener.dataset.opens);
  if (dock.open) {
    dock.close();
  } else {
    openDock(dock);
    if (WIDE.matches) keep(`dock:${dock.id}`, true, store);
  }
  showDocks();
}, true);

for (const dock of document.querySelectorAll(".dock")) {
  dock.addEventListener("close", () => {
    forget(`dock:${dock.id}`, store);
    showDocks();
  });
}

function restoreDocks() {
  if (!WIDE.matches) return;
  for (const [name] of kept("dock:", store)) {
    const dock = document.getElementById(name.slice("dock:".length));
    if (dock) openDock(dock);
  }
  showDocks();
}

function afterPairCame() {
  const ten = document.getElementById("last-ten");
  if (ten.matches(":modal")) ten.close();
  showDocks();
  criterion = null;
  suggestBreak();
  showLeftBehind();
}

function afterStored() {
  refreshDock(document.getElementById("last-ten"));
  showDocks();
  showLeftBehind();
}

// The flag's panel shuts by its button, or by a press anywhere else.
document.addEventListener("click", (event) => {
  const flag = document.querySelector(".flag[open]");
  if (flag && (event.target.closest("[data-shuts]") || !flag.contains(event.target))) flag.open = false;
});

// --- Criteria ---
// After the key for criteria, the keys of the verdicts answer them, one after the other.
function startCriteria() {
  const all = [...pair().querySelectorAll(".criterion")];
  askCriterion(all.find((one) => !one.querySelector(":checked")) ?? all[0]);
}

function askCriterion(next) {
  criterion?.classList.remove("asked");
  criterion = next ?? null;
  criterion?.classList.add("asked");
  criterion?.scrollIntoView({ block: "nearest", inline: "nearest" });
  (criterion?.querySelector("input") ?? pair().querySelector("#answer-a"))?.focus({ preventScroll: true });
}

function endCriteria() {
  criterion?.classList.remove("asked");
  criterion = null;
}

// Whether `value` answers the criterion that is asked; then the next one is.
function answerCriterion(value) {
  const choice = value && criterion.querySelector(`input[value="${CSS.escape(value)}"]`);
  if (!choice) return false;
  choice.checked = true;
  choice.dispatchEvent(new Event("input", { bubbles: true }));
  const next = criterion.nextElementSibling;
  askCriterion(next?.matches(".criterion") ? next : null);
  return true;
}

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-act=criteria]")) startCriteria();
});
document.addEventListener("focusin", (event) => {
  if (criterion && !criterion.contains(event.target)) endCriteria();
});

// --- Breaks ---
// Said only as a pair comes, so that nothing moves under what somebody reads.
function suggestBreak() {
  const now = Date.now();
  const work = Object.fromEntries(kept("work", store)).work ?? { since: now, last: now };
  if (now - work.last > AWAY_MS) work.since = now;
  work.last = now;
  keep("work", work, store);
  const worked = now - work.since;
  const box = document.getElementById("break");
  box.hidden = !BREAK_MS || worked < BREAK_MS;
  const minutes = String(Math.round(worked / 60_000));
  box.querySelector("span").textContent = box.dataset.words.replace("{minutes}", minutes);
}

document.querySelector("#break button").addEventListener("click", () => {
  const now = Date.now();
  keep("work", { since: now, last: now }, store);
  document.getElementById("break").hidden = true;
  pair().querySelector("#answer-a, .pair-focus")?.focus({ preventScroll: true });
});

// --- Left behind ---
// A pair whose time ran out, or that an undo pushed aside, is gone with its lease. What
// was written for it is given back until somebody puts it away. Not gone is what stands on
// the page, one that is leaving it included, and what is reserved ahead.
function draftsInUse() {
  const here = [...document.querySelectorAll(".pair")].map((one) => one.dataset.lease);
  const ahead = kept("ahead").map(([, lease]) => lease);
  return new Set([...here, ...ahead].map((lease) => `draft:${lease}`));
}

function textOf(draft) {
  return [draft.edited_first, draft.edited_second, draft.comment, draft.flag_text].filter(Boolean).join("\n\n");
}

function showLeftBehind() {
  const box = document.getElementById("left-behind");
  const inUse = draftsInUse();
  const picks = new Set(kept("pick:").map(([name]) => name.replace("pick:", "draft:")));
  const texts = [];
  for (const [name, draft] of kept("draft:")) {
    if (inUse.has(name) || picks.has(name)) continue;
    if (textOf(draft)) texts.push(textOf(draft));
    else forget(name);
  }
  for (const [name, draft] of keptBefore()) {
    if (!inUse.has(name) && !draft.isPutAway && textOf(draft)) texts.push(textOf(draft));
  }
  // A pair just closed gives its texts back in its own place.
  box.hidden = !texts.length || Boolean(pair().querySelector("#kept, #kept-edit"));
  box.querySelector("textarea").value = texts.join("\n\n———\n\n");
}

document.querySelector("#left-behind button").addEventListener("click", () => {
  const inUse = draftsInUse();
  for (const [name] of kept("draft:")) if (!inUse.has(name)) forget(name);
  // It may be of another project, whose pair can still come.
  for (const [name, draft] of keptBefore()) keep(name, { ...draft, isPutAway: true }, store);
  showLeftBehind();
});

// The compare page: a visible beat, drafts, and picks that outlive a lost network.
// A pick is kept in localStorage from the key stroke until the server has answered it;
// its lease key makes sending it again harmless. Needs app.js and htmx, and keys.js,
// editing.js and desk.js before it, ahead.js after it; without all of them the plain form still works.
"use strict";

const live = document.getElementById("live");
const store = `tiebreak:${document.body.dataset.user}:`;
const RETRY_MS = 4000;
let retryTimer = 0;
let sending = "";
let isResent = false;

const pair = () => document.getElementById("pair");

// --- Kept on this device ----------------------------------------------------------
// Private windows may refuse storage: then the page works, it only remembers less.
function keep(name, value) {
  try {
    localStorage.setItem(store + name, JSON.stringify(value));
  } catch { /* nothing to be done, and nothing is lost that was not lost before */ }
}

function forget(name) {
  try {
    localStorage.removeItem(store + name);
  } catch { /* as above */ }
}

function kept(prefix) {
  const found = [];
  try {
    for (const name of Object.keys(localStorage)) {
      if (!name.startsWith(store + prefix)) continue;
      found.push([name.slice(store.length), JSON.parse(localStorage.getItem(name))]);
    }
  } catch { /* as above */ }
  return found;
}

// {name: value, or values where there are several} of what is filled in.
function typed(form) {
  const found = {};
  for (const [name, value] of new FormData(form)) {
    if (name === "csrfmiddlewaretoken" || !value) continue;
    found[name] = name in found ? [found[name], value].flat() : value;
  }
  return found;
}

function keepDraft() {
  const form = pair().querySelector(".pair-form");
  if (form) keep(`draft:${pair().dataset.lease}`, typed(form));
}

// What the server sends back filled in (a refusal, an undo) is the newer.
function restoreDraft() {
  const form = pair().querySelector(".pair-form");
  const draft = form && kept(`draft:${pair().dataset.lease}`)[0]?.[1];
  if (!draft || Object.keys(typed(form)).length) return;
  for (const input of form.elements) {
    const value = draft[input.name];
    if (!value?.length || !input.name) continue;
    if (input.matches("[type=radio], [type=checkbox]")) {
      input.checked = [value].flat().includes(input.value);
    } else if (input.matches("textarea, [type=text]")) {
      input.disabled = false;
      input.value = value;
      input.closest("details").open = true;
      if (input.closest(".edit")) drawDiff(input.closest(".edit"));
    }
  }
}

// --- Sending ------------------------------------------------------------------------
function sendKept() {
  clearTimeout(retryTimer);
  const [name, pick] = kept("pick:")[0] ?? [];
  if (!name || sending) return;
  sending = name;
  isResent = true;
  pair().dataset.busy = "true";
  htmx
    .ajax("POST", pick.url, { target: "#pair", swap: "outerHTML settle:0ms", values: pick.values })
    .catch(() => {}); // told by the event, see stillKept
}

function retryLater() {
  clearTimeout(retryTimer);
  retryTimer = setTimeout(sendKept, RETRY_MS);
}

function pickOf(url) {
  return kept("pick:").find(([, pick]) => pick.url === url);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches(".pair-form")) return;
  // One act at a time: a second key stroke must not reach the pair that is leaving.
  if (pair().dataset.busy) {
    event.preventDefault();
    event.stopImmediatePropagation();
    return;
  }
  pair().dataset.busy = "true";
  const button = event.submitter;
  button?.classList.add("picked");
  if (button?.name !== "verdict") return;
  pair().dataset.picked = button.value;
  const { lease } = pair().dataset;
  const values = { ...typed(form), verdict: button.value };
  sending = `pick:${lease}`;
  keep(sending, { url: form.getAttribute("action"), values });
}, true);

// The second half of a double click would fall on the pair that came meanwhile.
document.addEventListener("click", (event) => {
  if (event.detail > 1 && event.target.closest(".verdicts button")) event.preventDefault();
}, true);

document.addEventListener("htmx:afterRequest", (event) => {
  const { xhr, requestConfig } = event.detail;
  if (requestConfig?.verb !== "post") return;
  sending = "";
  const [name] = pickOf(requestConfig.path) ?? [];
  // 0, 403 and 5xx are no answer, nor is the sign-in page: the pick stays kept.
  const answered = xhr.status >= 200 && xhr.status < 500 && xhr.status !== 403;
  if (!answered || isSignInPage(xhr.responseURL)) {
    if (name !== `pick:${pair().dataset.lease}`) release();
    return;
  }
  if (xhr.status >= 400) release();
  const skipped = /\/leases\/([^/]+)\/skip\//.exec(requestConfig.path)?.[1];
  if (skipped && xhr.status < 300) forget(`draft:${skipped}`);
  if (!name) return;
  forget(name);
  if (xhr.status < 300) {
    forget(name.replace("pick:", "draft:"));
    keep("judged", name.slice("pick:".length));
  }
  if (kept("pick:").length) retryLater();
});

function stillKept(event) {
  const { requestConfig, xhr } = event.detail;
  if (!pickOf(requestConfig?.path) || (xhr.status && xhr.status < 500)) return;
  notice.textContent = pair().dataset.kept;
  live.textContent = pair().dataset.kept;
  retryLater();
}

for (const name of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
  document.addEventListener(name, stillKept);
}

function release() {
  delete pair().dataset.busy;
  delete pair().dataset.picked;
  pair().querySelector(".picked")?.classList.remove("picked");
}

window.addEventListener("online", sendKept);

// The pick is seen for a moment before the next pair comes; how long, the person says.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target.id !== "pair" || !pair().dataset.picked) return;
  event.detail.swapOverride = `outerHTML swap:${desk.dataset.beat}ms settle:0ms`;
});

// --- After a swap ----------------------------------------------------------------------
function showPair() {
  applyKeys();
  prepareEditors();
  restoreDraft();
  afterPairCame();
  // The place to read on from, for the keyboard and for screen readers.
  pair().querySelector("#answer-a, .pair-focus")?.focus({ preventScroll: true });
  pair().querySelector(".pair-text")?.scrollTo(0, 0);
}

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "pair") return;
  live.textContent = [isResent && pair().dataset.sent, pair().dataset.announce].filter(Boolean).join(" ");
  isResent = false;
  showPair();
  afterStored();
});

document.addEventListener("input", (event) => {
  if (event.target.closest(".pair-form")) keepDraft();
});

document.documentElement.classList.add("has-keys");
applyKeys();
prepareEditors();
restoreDraft();
restoreDocks();
showLeftBehind();
if (pair().dataset.lease && kept("judged")[0]?.[1] === pair().dataset.lease) {
  // Drawn by the server while the pick was still being stored: this pair is judged.
  htmx
    .ajax("GET", location.pathname, { target: "#pair", swap: "outerHTML settle:0ms" })
    .catch(() => {}); // told by the events of app.js
} else {
  sendKept();
}

// The compare page: a visible beat, drafts, and picks that outlive a lost network.
// A pick is kept in localStorage from the key stroke until the server has answered it;
// its lease key makes sending it again harmless. Needs app.js and htmx, and keys.js,
// editing.js and desk.js before it, ahead.js after it; without all of them the plain form still works.
"use strict";

const pair = () => document.getElementById("pair");
const live = document.getElementById("live");
// What is somebody's wherever they work, and what belongs to this project's pairs.
const store = `tiebreak:${document.body.dataset.user}:`;
const projectStore = `${store}${pair().dataset.project}:`;
const RETRY_MS = 4000;
let retryTimer = 0;
let sending = "";
let isResent = false;

// --- Kept on this device ---
// Private windows may refuse storage: then the page works, it only remembers less.
function keep(name, value, where = projectStore) {
  try {
    localStorage.setItem(where + name, JSON.stringify(value));
  } catch { /* nothing to be done, and nothing is lost that was not lost before */ }
}

function forget(name, where = projectStore) {
  try {
    localStorage.removeItem(where + name);
  } catch { /* as above */ }
}

function kept(prefix, where = projectStore) {
  const found = [];
  try {
    for (const name of Object.keys(localStorage)) {
      if (!name.startsWith(where + prefix)) continue;
      found.push([name.slice(where.length), JSON.parse(localStorage.getItem(name))]);
    }
  } catch { /* as above */ }
  return found;
}

// Picks and drafts of all projects once lay together, and none says whose it is.
function keptBefore() {
  return kept("", store).filter(([name]) => /^(pick|draft):[0-9a-f-]{36}$/.test(name));
}

// Such a pick is sent from here (see beforeSwap); a draft waits until its pair comes.
function adopt() {
  const before = keptBefore();
  const ours = draftsInUse();
  for (const [name] of before) if (name.startsWith("pick:")) ours.add(name.replace("pick:", "draft:"));
  for (const [name, value] of before) {
    if (!ours.has(name.replace("pick:", "draft:"))) continue;
    keep(name, value);
    if (kept(name).length) forget(name, store);
  }
}

// {name: value, or values where there are several} of what is filled in, and of an
// answer that was emptied; a box that is shut is in no form.
function typed(form) {
  const found = {};
  for (const [name, value] of new FormData(form)) {
    if (name === "csrfmiddlewaretoken" || (!value && !name.startsWith("edited_"))) continue;
    found[name] = name in found ? [found[name], value].flat() : value;
  }
  return found;
}

function keepDraft() {
  const form = pair().querySelector(".pair-form");
  if (form) keep(`draft:${pair().dataset.lease}`, typed(form));
}

// What is kept for a lease is what was typed last: it goes before what the server filled
// in, which after a refusal is the same, and after an undo what was typed at the time.
function restoreDraft() {
  adopt();
  const form = pair().querySelector(".pair-form");
  const draft = form && kept(`draft:${pair().dataset.lease}`)[0]?.[1];
  if (!draft) return;
  for (const input of form.elements) {
    const value = draft[input.name];
    const details = input.closest("details");
    if (input.matches("[type=radio], [type=checkbox]")) {
      input.checked = [value].flat().includes(input.value);
    } else if (input.matches(".edit textarea")) {
      details.open = value !== undefined;
      input.value = value ?? input.dataset.original ?? input.defaultValue;
    } else if (input.matches("textarea, [type=text]")) {
      input.value = value ?? "";
      if (value) details.open = true;
    }
  }
}

// --- Sending ---
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

// The answer to a pick of another project (see adopt) is not for this page.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { detail } = event;
  const project = /<section id="pair".* data-project="(.*?)"/.exec(detail.serverResponse)?.[1];
  if (!project || project === pair().dataset.project) return;
  detail.shouldSwap = isResent = false;
  if (detail.xhr.status < 300) live.textContent = pair().dataset.sent;
  release();
});

// The pick is seen for a moment before the next pair comes; how long, the person says.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target.id !== "pair" || !pair().dataset.picked) return;
  event.detail.swapOverride = `outerHTML swap:${desk.dataset.beat}ms settle:0ms`;
});

// --- After a swap ---
// A chat opens at its end; a last question that is longer than the box, at its beginning.
function showQuestion() {
  const box = pair().querySelector(".prompt");
  const question = box?.querySelector(".turn + .question");
  if (question) box.scrollTop += question.getBoundingClientRect().top - box.getBoundingClientRect().top;
}

function showPair() {
  applyKeys();
  restoreDraft();
  prepareEditors();
  requestAnimationFrame(showQuestion); // only then the box has its size
  afterPairCame();
  // The place to read on from, for the keyboard and for screen readers; or what is asked for.
  (pair().querySelector("[autofocus]") ?? pair().querySelector("#answer-a, .pair-focus"))?.focus({ preventScroll: true });
  pair().querySelector(".pair-text")?.scrollTo(0, 0);
  // At 200 % zoom the page scrolls.
  if (pair().getBoundingClientRect().top < 0) pair().scrollIntoView();
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
restoreDraft();
prepareEditors();
restoreDocks();
showQuestion();
showLeftBehind();
if (pair().dataset.lease && kept("judged")[0]?.[1] === pair().dataset.lease) {
  // Drawn by the server while the pick was still being stored: this pair is judged.
  htmx
    .ajax("GET", location.pathname, { target: "#pair", swap: "outerHTML settle:0ms" })
    .catch(() => {}); // told by the events of app.js
} else {
  sendKept();
}

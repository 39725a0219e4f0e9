// The compare page: keys, a visible beat, drafts, and picks that outlive a lost network.
// A pick is kept in localStorage from the key stroke until the server has answered it;
// its lease key makes sending it again harmless. Needs app.js and htmx; without this
// file the page's plain form still works.
"use strict";

const live = document.getElementById("live");
const store = `tiebreak:${document.body.dataset.user}:`;
const RETRY_MS = 4000;
let retryTimer = 0;
let sending = "";

const pair = () => document.getElementById("pair");
const isTextBox = (element) =>
  element.matches("textarea, select, [contenteditable], input:not([type=radio], [type=checkbox])");

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

function typed(form) {
  const data = new FormData(form);
  return {
    comment: data.get("comment") ?? "",
    strength: data.get("strength") ?? "",
    reasons: data.getAll("reasons"),
  };
}

function restoreDraft() {
  const lease = pair().dataset.lease;
  const draft = lease && kept(`draft:${lease}`)[0]?.[1];
  const form = pair().querySelector(".pair-form");
  if (!draft || !form || typed(form).comment) return;
  form.elements.comment.value = draft.comment;
  form.querySelector("details.comment").open = Boolean(draft.comment);
  for (const input of form.querySelectorAll("[name=strength], [name=reasons]")) {
    input.checked = input.value === draft.strength || draft.reasons.includes(input.value);
  }
}

// --- Sending ------------------------------------------------------------------------
function sendKept() {
  clearTimeout(retryTimer);
  const [name, pick] = kept("pick:")[0] ?? [];
  if (!name || sending) return;
  sending = name;
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
  keep(`pick:${lease}`, { url: form.getAttribute("action"), values });
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
  if (!name) return;
  forget(name);
  if (xhr.status < 300) forget(name.replace("pick:", "draft:"));
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

// --- After a swap ----------------------------------------------------------------------
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "pair") return;
  live.textContent = pair().dataset.announce;
  restoreDraft();
  // The place to read on from, for the keyboard and for screen readers.
  pair().querySelector("#answer-a, .pair-focus")?.focus({ preventScroll: true });
  pair().querySelector(".pair-text")?.scrollTo(0, 0);
});

document.addEventListener("input", (event) => {
  const form = event.target.closest(".pair-form");
  if (form) keep(`draft:${pair().dataset.lease}`, typed(form));
});

// --- Keys ----------------------------------------------------------------------------------
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (isTextBox(event.target) || document.querySelector("dialog[open]")) return;
  const key = event.key.toLowerCase();
  if (!/^[a-z0-9?]$/.test(key)) return;
  const control = document.querySelector(`[data-key="${key}"]`);
  if (!control) return;
  event.preventDefault();
  control.click();
});

document.documentElement.classList.add("has-keys");
restoreDraft();
sendKept();

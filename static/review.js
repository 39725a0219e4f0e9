// The review page: keys, the focus after a swap, one act at a time. Needs app.js and htmx;
// without this file the page's plain forms and links still work.
"use strict";

const live = document.getElementById("live");
const desk = () => document.getElementById("review");

// A second key stroke must not reach the pair that is leaving.
document.addEventListener("submit", (event) => {
  if (!event.target.matches(".pair-form")) return;
  if (desk().dataset.busy) {
    event.preventDefault();
    event.stopImmediatePropagation();
    return;
  }
  desk().dataset.busy = "true";
  event.submitter?.classList.add("picked");
  if (event.submitter?.name === "verdict") desk().dataset.picked = event.submitter.value;
}, true);

// Also where the session was over: then the pair is still there, to be decided once more.
document.addEventListener("htmx:afterRequest", () => {
  delete desk().dataset.busy;
  delete desk().dataset.picked;
  desk().querySelector(".picked")?.classList.remove("picked");
});

document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target.id !== "review") return;
  live.textContent = desk().dataset.announce;
  const count = document.querySelector(".project-nav [aria-current] .count");
  if (count) count.textContent = desk().dataset.left;
  // The place to read on from, for the keyboard and for screen readers.
  desk().querySelector("#answer-a, .pair-focus")?.focus({ preventScroll: true });
  desk().querySelector(".pair-text")?.scrollTo(0, 0);
  // At 200 % zoom the page scrolls.
  if (desk().getBoundingClientRect().top < 0) desk().scrollIntoView();
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (event.key === "Escape" && isTextBox(event.target)) event.target.blur();
  if (isTextBox(event.target) || document.querySelector("dialog[open]")) return;
  const control = meant(event, "key", "[data-key]");
  if (!control) return;
  event.preventDefault();
  if (control.type === "radio" && control.checked) {
    control.checked = false;
    return;
  }
  control.click();
  const note = control.closest("details[open]")?.querySelector("textarea");
  note?.focus();
});

document.documentElement.classList.add("has-keys");

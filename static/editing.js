// Improving an answer in place: the box takes part in the form only while it is open,
// and a word diff against the answer as it was follows the typing.
"use strict";

const DIFF_MS = 120;
let diffTimer = 0;

const editBox = (details) => details.querySelector("textarea");

function prepareEditors() {
  for (const details of document.querySelectorAll(".edit")) {
    editBox(details).disabled = !details.open;
    if (details.open) drawDiff(details);
  }
}

function drawDiff(details) {
  const box = editBox(details);
  const shown = details.querySelector(".diff");
  const parts = wordDiff(box.dataset.original ?? box.defaultValue, box.value);
  if (parts.every(([kind]) => kind === "same")) {
    shown.textContent = shown.dataset.nothing;
    shown.classList.add("muted");
    return;
  }
  shown.classList.remove("muted");
  shown.replaceChildren(
    ...parts.map(([kind, text]) => {
      const names = { same: "span", gone: "del", new: "ins" };
      const part = document.createElement(names[kind]);
      part.textContent = text;
      return part;
    }),
  );
}

// `toggle` does not bubble, so it is caught on its way down.
document.addEventListener("toggle", (event) => {
  const details = event.target;
  if (!details.matches?.(".edit") || !pair().contains(details)) return;
  const box = editBox(details);
  if (box.disabled !== details.open) return; // as prepareEditors or a draft left it
  box.disabled = !details.open;
  keepDraft();
  if (!details.open) return;
  drawDiff(details);
  if (!pair().contains(document.activeElement) || details.contains(document.activeElement)) box.focus();
}, true);

document.addEventListener("input", (event) => {
  const details = event.target.closest?.(".edit");
  if (!details) return;
  clearTimeout(diffTimer);
  diffTimer = setTimeout(() => drawDiff(details), DIFF_MS);
});

document.addEventListener("keydown", (event) => {
  const details = event.target.closest?.(".edit");
  if (!details || event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  pair().querySelector(`.verdicts [value=${details.dataset.side}]`).click();
});

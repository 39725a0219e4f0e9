// Keys of the compare page. What can be done by key carries `data-act`; which key that is
// the person chooses (preferences), so it is put on the buttons here.
"use strict";

// So encoded they weigh a third of what JSON does in an attribute, each of its quotes six bytes.
const KEYS = Object.fromEntries(new URLSearchParams(desk.dataset.keys));

function applyKeys() {
  for (const control of document.querySelectorAll("[data-act]")) {
    const key = KEYS[control.dataset.act] ?? "";
    control.dataset.key = key;
    if (key) control.setAttribute("aria-keyshortcuts", key);
    else control.removeAttribute("aria-keyshortcuts");
    const cap = (control.closest("label") ?? control).querySelector("kbd");
    if (!cap) continue;
    cap.textContent = key;
    cap.hidden = !key;
  }
}

function press(control) {
  control.closest(".chip")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (control.matches("summary")) {
    unfold(control.parentElement);
  } else if (control.matches("[type=radio]:checked")) {
    control.checked = false; // the same key again takes it back
    control.dispatchEvent(new Event("input", { bubbles: true }));
  } else {
    control.click();
  }
}

// By key a text box opens ready to be typed in; open already, it is gone back to.
function unfold(details) {
  if (details.matches(".flag[open]")) {
    details.open = false;
    return;
  }
  details.open = true;
  const inside = details.querySelector(details.matches(".flag") ? "[data-menu-key]" : "textarea");
  inside.disabled = false;
  if (details.matches(".edit")) drawDiff(details);
  inside.focus();
}

function leave() {
  const flag = document.querySelector(".flag[open]");
  if (flag?.contains(document.activeElement)) {
    flag.open = false;
  } else if (!criterion && !isTextBox(document.activeElement)) {
    return;
  }
  endCriteria();
  pair().querySelector("#answer-a, .pair-focus")?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) return;
  if (document.querySelector("dialog:modal")) return;
  if (event.key === "Escape" && pair().contains(event.target)) return leave();
  if (isTextBox(event.target)) return;
  const inMenu = meant(event, "menuKey", ".flag[open] [data-menu-key]");
  if (inMenu) {
    event.preventDefault();
    return inMenu.click();
  }
  const control = meant(event, "key", "[data-key]");
  if (!control) return;
  event.preventDefault();
  if (criterion && answerCriterion(control.value)) return;
  press(control);
});

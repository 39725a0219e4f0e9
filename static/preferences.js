// On the preferences page a key is chosen by pressing it: it replaces what is in the box.
"use strict";

document.addEventListener("beforeinput", (event) => {
  if (!event.target.matches(".key-box") || event.inputType !== "insertText" || !event.data) return;
  event.preventDefault();
  event.target.value = event.data.toLowerCase();
});

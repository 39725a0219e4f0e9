// On the preferences page a key is chosen by pressing it: what was in the box is replaced.
"use strict";

document.addEventListener("focusin", (event) => {
  if (event.target.matches(".key-box")) event.target.select();
});

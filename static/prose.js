// Text from outside, made handy: a copy button on every block of code, and a name and a
// place in the tab order for what scrolls. Words come translated from #live.
"use strict";

{
  const live = document.getElementById("live");
  const words = live.dataset;
  // Kept to a part of the screen's height: app.css.
  const LONG = ".panel > .prose, .turns";

  // Only what is too large for its place right now is worth a stop of the Tab key.
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const wide = target.scrollWidth > target.clientWidth + 1;
      const scrolls = wide || (target.matches(LONG) && target.scrollHeight > target.clientHeight + 1);
      if (scrolls === target.hasAttribute("tabindex")) continue;
      target.toggleAttribute("tabindex", scrolls);
      if (!scrolls) {
        target.removeAttribute("role");
        target.removeAttribute("aria-label");
        continue;
      }
      target.tabIndex = 0;
      target.setAttribute("role", "group");
      target.setAttribute("aria-label", target.matches(LONG) ? words.longText : target.matches("pre") ? words.wideCode : words.widePart);
    }
  });

  function dress() {
    for (const part of document.querySelectorAll(`:is(.prose :is(pre, .scroll), ${LONG}):not([data-seen])`)) {
      part.dataset.seen = "";
      sizes.observe(part);
    }
    for (const code of document.querySelectorAll(".prose .code:not(:has(.copy))")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = words.copy;
      code.querySelector("pre").before(button);
    }
  }

  // Where the page came by plain http, browsers have no clipboard to write to.
  async function copy(pre) {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      return true;
    } catch {
      getSelection().selectAllChildren(pre);
      return document.execCommand("copy");
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".prose .copy");
    if (!button) return;
    const done = await copy(button.nextElementSibling);
    live.textContent = done ? words.copied : words.select;
    button.textContent = live.textContent;
    setTimeout(() => {
      button.textContent = words.copy;
    }, 2000);
  });

  // Parts of a page are swapped by htmx and by other files: all of them are looked after.
  new MutationObserver(dress).observe(document.body, { childList: true, subtree: true });
  dress();
}

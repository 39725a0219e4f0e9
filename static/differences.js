// The words in which the answers on the desk differ, marked on a key: fetched when first
// asked for, put into both columns, and taken out again. On or off is remembered in this
// tab, per person. The texts come into the pair they belong to, so that none can ever
// land beside another pair.
"use strict";

{
  const live = document.getElementById("live");
  const name = `tiebreak:${document.body.dataset.user}:differences`;
  const unmarked = new WeakMap();

  function isOn() {
    try {
      return sessionStorage.getItem(name) === "on";
    } catch {
      return false;
    }
  }

  function remember(on) {
    try {
      sessionStorage.setItem(name, on ? "on" : "off");
    } catch { /* a private window: each pair begins without marks */ }
  }

  const holderOf = (button) => button.parentElement.querySelector(".difference-texts");

  function put(column, nodes) {
    const place = column.scrollTop;
    column.replaceChildren(...nodes);
    column.scrollTop = place;
  }

  function show(button) {
    const holder = holderOf(button);
    button.setAttribute("aria-pressed", "true");
    if (!holder.firstElementChild) {
      htmx
        .ajax("GET", button.dataset.url, { source: button, target: holder, swap: "innerHTML settle:0ms" })
        .catch(() => {}); // told by the events of app.js
      return;
    }
    for (const text of holder.children) {
      const column = button.closest("form").querySelector(`${text.dataset.for} .answer-text`);
      if (!unmarked.has(column)) unmarked.set(column, [...column.childNodes]);
      put(column, text.cloneNode(true).childNodes);
    }
    const { places, told } = holder.firstElementChild.dataset;
    button.querySelector(".difference-places").textContent = places;
    live.textContent = told;
  }

  function hide(button) {
    button.setAttribute("aria-pressed", "false");
    button.querySelector(".difference-places").textContent = "";
    for (const column of button.closest("form").querySelectorAll(".answer-text")) {
      if (unmarked.has(column)) put(column, unmarked.get(column));
    }
    live.textContent = button.dataset.off;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.difference");
    if (!button) return;
    const on = button.getAttribute("aria-pressed") !== "true";
    remember(on);
    if (on) show(button);
    else hide(button);
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    const holder = event.detail.target;
    if (!holder.matches(".difference-texts")) return;
    const button = holder.parentElement.querySelector("button.difference");
    if (button.getAttribute("aria-pressed") === "true") show(button);
  });

  // Without the texts nothing is marked; the next press asks again.
  for (const failure of ["htmx:sendError", "htmx:timeout", "htmx:responseError"]) {
    document.addEventListener(failure, ({ target }) => {
      if (target.matches?.("button.difference")) target.setAttribute("aria-pressed", "false");
    });
  }

  function dress() {
    for (const button of document.querySelectorAll("button.difference[hidden]")) {
      button.hidden = false;
      if (isOn()) show(button);
    }
  }

  new MutationObserver(dress).observe(document.getElementById("main"), { childList: true, subtree: true });
  dress();
}

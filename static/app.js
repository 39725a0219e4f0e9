// On every page: a fresh CSRF token for htmx, a word when the connection or the
// session is gone, menus that close, dialogs in browsers without invoker commands,
// which control a key means, forms that are sent once and never to a sign-in page.
// All words come translated from #page-notice in base.html.
"use strict";

const notice = document.getElementById("page-notice");

function csrfToken() {
  const found = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/);
  return found ? decodeURIComponent(found[1]) : "";
}

// A value of the style sheet, for what is drawn by script.
function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function showNotice(kind) {
  notice.textContent = notice.dataset[kind];
  if (kind === "signedOut") {
    const link = document.createElement("a");
    const login = new URL(document.body.dataset.loginUrl, location.href);
    login.searchParams.set("next", location.pathname + location.search);
    link.href = login;
    // The compare page keeps what was typed on the device, any other only while it stays open.
    const isKept = document.querySelector(".desk");
    link.textContent = isKept ? notice.dataset.signIn : notice.dataset.signInBeside;
    if (!isKept) link.target = "_blank";
    notice.append(" ", link);
  }
  notice.dataset.shown = kind;
  notice.hidden = false;
}

function hideNotice() {
  notice.hidden = true;
  notice.dataset.shown = "";
}

function isSignInPage(url) {
  const login = new URL(document.body.dataset.loginUrl, location.href);
  return Boolean(url) && new URL(url, location.href).pathname === login.pathname;
}

// Signing in again in another tab changes the token; the cookie has the newest.
document.addEventListener("htmx:configRequest", (event) => {
  const token = csrfToken();
  if (!token) return;
  event.detail.headers["X-CSRFToken"] = token;
  // Django looks at the form's own before the header's. (htmx's parameters know no `in`.)
  if (event.detail.parameters.csrfmiddlewaretoken) {
    event.detail.parameters.csrfmiddlewaretoken = token;
  }
});

// An ended session answers with the sign-in page: say so instead of showing it inside.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (isSignInPage(event.detail.xhr.responseURL)) {
    event.detail.shouldSwap = false;
    showNotice("signedOut");
  } else if (event.detail.xhr.status < 400) {
    hideNotice();
  }
});
document.addEventListener("htmx:sendError", () => showNotice("offline"));
document.addEventListener("htmx:timeout", () => showNotice("offline"));
document.addEventListener("htmx:responseError", (event) => {
  showNotice(event.detail.xhr.status < 500 ? "refused" : "failed");
});

const OPEN_PANELS = "details:is(.menu, .confirm)[open]";

document.addEventListener("click", (event) => {
  for (const panel of document.querySelectorAll(OPEN_PANELS)) {
    if (!panel.contains(event.target)) panel.open = false;
  }
  const button = event.target.closest("button[commandfor]");
  if (button && !("command" in HTMLButtonElement.prototype)) {
    const dialog = document.getElementById(button.getAttribute("commandfor"));
    if (button.getAttribute("command") === "close") dialog.close();
    else dialog.showModal();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const panels = [...document.querySelectorAll(OPEN_PANELS)];
  const panel = panels.find((one) => one.contains(document.activeElement)) ?? panels[0];
  if (!panel) return;
  panel.open = false;
  panel.querySelector("summary").focus();
});

// The control that a key stroke means, by its data-… `name`. Where nothing has the key itself, its
// place tells: letters of other scripts (и is where B is), digits under shift (as in France), and
// an input method that is on, which hides the key.
function meant(event, name, controls) {
  const key = event.key.toLowerCase();
  const [, kind, sign] = /^(Key|Digit)(.)$/.exec(event.code) ?? [];
  const isByPlace = kind === "Digit" ? !event.shiftKey : !/^[!-~]$/.test(key);
  const found = [...document.querySelectorAll(controls)];
  for (const one of [key, isByPlace && sign?.toLowerCase()]) {
    const control = one && found.find((control) => control.dataset[name] === one);
    if (control) return control;
  }
}

// Boxes that keys write into.
const isTextBox = (element) =>
  element.matches("textarea, select, [contenteditable], input:not([type=radio], [type=checkbox])");

// The second half of a double click would fall on the pair that came meanwhile.
document.addEventListener("click", (event) => {
  if (event.detail > 1 && event.target.closest(".verdicts button")) event.preventDefault();
}, true);

// On a phone the navigation scrolls sideways: where one is should be in sight.
// (Not scrollIntoView: Chromium then begins the first Tab there, past the skip link.)
for (const link of document.querySelectorAll(".project-nav [aria-current]")) {
  for (const strip of [link.closest("ul"), link.closest("nav")]) {
    const [mine, all] = [link, strip].map((part) => part.getBoundingClientRect());
    strip.scrollLeft += mine.left + mine.width / 2 - (all.left + all.width / 2);
  }
}

// A refused form is gone on with where it was refused.
const refused = document.querySelector("main [aria-invalid='true']") || document.querySelector("main .notice.bad[role='alert']");
if (refused && !document.querySelector("main [autofocus]")) {
  if (!refused.matches("input, select, textarea")) refused.tabIndex = -1;
  refused.focus({ preventScroll: true });
  refused.scrollIntoView({ block: "center" });
}

// A form that is sent as a whole page. Signed out, one would be led to sign in, and find
// nothing of what was typed: so that is asked first. A second click meanwhile, or while
// the answer is on its way, would be told that it is too late.
document.addEventListener("submit", async (event) => {
  const { target: form, submitter } = event;
  if (event.defaultPrevented || form.method !== "post") return;
  const { sent } = form.dataset;
  if (sent && sent !== "asked") return event.preventDefault();
  // A connection that breaks says nothing: then it can be sent again.
  setTimeout(() => delete form.dataset.sent, 5000);
  if (sent === "asked" || !form.matches("[data-user] main form")) {
    form.dataset.sent = "yes";
    // Signing in again in another tab has changed it.
    form.elements.csrfmiddlewaretoken.value = csrfToken();
    return;
  }
  event.preventDefault();
  form.dataset.sent = "asking";
  const kind = await whyNotSent();
  if (kind) {
    delete form.dataset.sent;
    return showNotice(kind);
  }
  form.dataset.sent = "asked";
  form.requestSubmit(submitter);
});
window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

async function whyNotSent() {
  try {
    const answer = await fetch(document.body.dataset.ownUrl, { method: "HEAD", redirect: "manual" });
    return answer.type === "opaqueredirect" ? "signedOut" : "";
  } catch {
    return "offline";
  }
}

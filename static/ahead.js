// The next pair, held while the person reads this one (server: annotation/reserving.py):
// on a pick it is on the screen after the beat, not after a round trip. Until the server
// has answered it can be read and written in, but not judged; the answer says whether it
// really is the next. If not, or if none comes, the pair that left comes back as it was.
// Needs compare.js before it, whose listeners come first.
"use strict";

{
  const REST_MS = 30_000;
  const HUSH_MS = 700;
  const IDLE_MS = 500;
  let held = null; // {lease, section}
  let turn = null; // a pick on its way: {leaving, focus, timer, isPut, answer, isAnswered}
  let isAsking = false;
  let restUntil = 0;
  let hushUntil = 0;

  // A page that is never quite idle asks all the same.
  const whenIdle = window.requestIdleCallback
    ? (act) => requestIdleCallback(act, { timeout: IDLE_MS })
    : (act) => setTimeout(act, 50);
  const pairIn = (html) => new DOMParser().parseFromString(html, "text/html").getElementById("pair");

  // --- Holding ---
  // Asked for silently: without it the next pair comes with the answer to the pick.
  async function ask() {
    if (held || turn || isAsking || !pair().dataset.lease || Date.now() < restUntil) return;
    isAsking = true;
    const headers = { "HX-Request": "true", "X-CSRFToken": csrfToken() };
    try {
      const answer = await fetch(desk.dataset.ahead, { method: "POST", headers, redirect: "manual" });
      if (answer.status === 200) hold(pairIn(await answer.text()));
      else rest(answer.status === 204);
    } catch {
      rest(false);
    } finally {
      isAsking = false;
    }
  }

  function hold(section) {
    const lease = section?.dataset.lease;
    if (!lease || lease === pair().dataset.lease) return;
    held = { lease, section };
    keep("ahead", lease);
    showLeftBehind();
  }

  function rest(isNoneReserved) {
    restUntil = Date.now() + REST_MS;
    if (!isNoneReserved) return;
    forget("ahead");
    showLeftBehind();
  }

  // --- A pick on its way ---
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (turn && form.getAttribute("hx-target") === "#pair") {
      // From a drawer: what it changes is what is just being stored.
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    if (!held || !form.matches(".pair-form") || event.submitter?.dataset.act === "undo") return;
    const timer = setTimeout(put, Number(desk.dataset.beat));
    turn = { leaving: pair(), focus: document.activeElement, timer, isPut: false, answer: null, isAnswered: false };
  }, true);

  // Where one is reserved it comes next, even if its text is not here yet.
  document.addEventListener("htmx:configRequest", (event) => {
    const isReserved = isAsking || kept("ahead").length;
    if (isReserved && event.detail.verb === "post") event.detail.headers["X-Has-Ahead"] = "true";
  });

  // The pair that leaves stays on the page, hidden: its request reports there, and all
  // that was typed and scrolled in it is kept. It comes second, so that what is looked
  // up by id or by key is found in the new one.
  function put() {
    const { leaving } = turn;
    const { section } = held;
    endCriteria();
    section.dataset.busy = "true";
    section.setAttribute("aria-busy", "true");
    section.querySelector(".last").replaceWith(leaving.querySelector(".last").cloneNode(true));
    leaving.id = "pair-leaving";
    leaving.hidden = true;
    leaving.before(section);
    turn.isPut = true;
    htmx.process(section);
    showPair();
    if (turn.isAnswered) settle();
  }

  function comeBack() {
    const { leaving, focus, timer, isPut } = turn;
    turn = null;
    clearTimeout(timer);
    if (!isPut) return;
    const { section } = held;
    // Who is writing goes on for a moment: that is for no other pair.
    if (section.contains(document.activeElement) && isTextBox(document.activeElement)) hush();
    section.remove();
    leaving.id = "pair";
    leaving.hidden = false;
    endCriteria();
    focus?.focus({ preventScroll: true });
    showLeftBehind();
  }

  function settle() {
    const { leaving, answer } = turn;
    const { section } = held;
    const last = section.querySelector(".last");
    const act = last.contains(document.activeElement) && document.activeElement.dataset.act;
    last.replaceWith(answer.querySelector(".last"));
    section.dataset.announce = answer.dataset.announce;
    section.removeAttribute("aria-busy");
    delete section.dataset.busy;
    leaving.remove();
    turn = null;
    drop();
    applyKeys();
    afterStored();
    if (act) section.querySelector(`.last [data-act=${act}]`)?.focus();
    live.textContent = section.dataset.announce;
    whenIdle(ask);
  }

  function drop() {
    held = null;
    forget("ahead");
  }

  function hush() {
    hushUntil = Date.now() + HUSH_MS;
  }

  document.addEventListener("keydown", (event) => {
    if (Date.now() > hushUntil || isTextBox(event.target)) return;
    event.stopImmediatePropagation();
    hush();
  }, true);

  // --- Its answer ---
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { detail } = event;
    if (detail.target !== turn?.leaving) return;
    const isTaken = detail.shouldSwap && detail.xhr.status < 300;
    const answer = isTaken ? pairIn(detail.serverResponse) : null;
    if (answer?.dataset.lease === held.lease) {
      turn.answer = answer;
      detail.shouldSwap = false;
      return;
    }
    if (turn.isPut) detail.swapOverride = "outerHTML settle:0ms"; // the beat is over
    comeBack();
    // The reservation was lost, or not made use of: which, asking again says.
    if (isTaken) held = null;
  });

  // No answer at all. Before compare.js, which must find the pair that left.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (turn && event.detail.target === turn.leaving && !turn.answer) comeBack();
  }, true);

  // After compare.js, which has put away the pick and its draft by now.
  document.addEventListener("htmx:afterRequest", (event) => {
    if (!turn?.answer || event.detail.target !== turn.leaving) return;
    turn.isAnswered = true;
    if (turn.isPut) settle();
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "pair") return;
    if (held?.lease === pair().dataset.lease) drop();
    whenIdle(ask);
  });

  whenIdle(ask);
}

"""A real Chromium against the live server; any console error or CSP violation fails.

`browse(user, …)` opens a page signed in as that user, `desk()` the compare page. What a test expects to go wrong
(a cut network, a refused act) it says with `browse.expected.append("part of message")`.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Page,
    Request,
    expect,
)

from tests.factories import make_comparison, make_project, make_prompt, make_user

# A busy machine may be slow; what never comes still fails.
expect.set_options(timeout=20_000)

WIDE, NARROW = (1440, 900), (390, 844)
REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""
REMEMBER_EVENTS = """
globalThis.happened = [];
for (const name of ["pointerdown", "pointerup", "click", "keydown", "submit", "htmx:beforeRequest",
                    "htmx:afterRequest", "htmx:afterSwap", "htmx:afterSettle", "htmx:swapError"]) {
  addEventListener(name, ({ target }) => happened.push(
    `${Math.round(performance.now())} ms ${name} ${target.tagName ?? ""} ${target.id ?? ""} `
    + (target.textContent ?? "").replace(/\\s+/g, " ").slice(0, 20)), true);
}
"""
"""For `Browse.tell`."""


def wait_until(page: Page, expression: str, arg: Any = None) -> None:
    """Until it is true in the page, asked from here each time: Playwright's own
    `wait_for_function` asks again by eval, which the page's policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression, arg):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


class Browse:
    """Opens pages and gathers what went wrong in them, and what happened at all."""

    def __init__(self, browser: Browser, url: str):
        self.browser, self.url = browser, url
        self.contexts: list[BrowserContext] = []
        self.problems: list[str] = []
        self.expected: list[str] = []
        self.requests: list[str] = []

    def __call__(
        self,
        user=None,
        path: str = "/",
        *,
        size: tuple[int, int] = WIDE,
        javascript: bool = True,
    ) -> Page:
        context = self.browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=javascript,
            reduced_motion="reduce",
            locale="en",
        )
        context.set_default_timeout(20_000)
        context.add_init_script(REPORT_VIOLATIONS)
        context.add_init_script(REMEMBER_EVENTS)
        # Chromium hands requests over from some moment after it was asked to. Asked
        # before the page is there, it misses none that a test then wants to hold.
        context.route("**/asked-by-no-page", lambda route: route.abort())
        if user is not None:
            context.add_cookies([self._session(user)])
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda one: self._on_request("asked", one))
        page.on("requestfailed", lambda one: self._on_request("FAILED", one))
        page.on("response", lambda one: self._on_request(one.status, one.request))
        page.goto(self.url + path)
        return page

    def _session(self, user) -> dict[str, str]:
        client = Client()
        client.force_login(user)
        value = client.cookies[settings.SESSION_COOKIE_NAME].value
        return {"name": settings.SESSION_COOKIE_NAME, "value": value, "url": self.url}

    def _on_console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.text} ({message.location.get('url', '')})")

    def _on_request(self, what: object, request: Request) -> None:
        if "/static/" not in request.url:
            self.requests.append(f"{what} {request.method} {request.url}")

    def tell(self) -> None:
        """Print where each page stands and what led there: a failed test's last words."""
        print("requests:", *self.requests[-12:], sep="\n  ")
        for page in [page for context in self.contexts for page in context.pages]:
            with suppress(Error):
                told = page.evaluate(
                    """[`focus: ${document.activeElement?.outerHTML.slice(0, 90)}`,
                    `notice: ${document.getElementById("page-notice")?.textContent}`,
                    ...happened.slice(-20)]"""
                )
                print(page.url, *told, sep="\n  ")

    def unexpected(self) -> list[str]:
        return [
            problem
            for problem in self.problems
            if not any(part in problem for part in self.expected)
        ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        item.has_failed = True
    return report


@pytest.fixture
def browse(
    request, chromium, live_server, transactional_db, monkeypatch
) -> Iterator[Browse]:
    # Nobody answers at the broker here; a nudge for new stock is not what is tested.
    for task in ("fill_stock", "run_import", "check_pairs"):
        monkeypatch.setattr(
            f"annotation.tasks.{task}.apply_async", lambda *args, **options: None
        )
    opener = Browse(chromium, live_server.url)
    yield opener
    if getattr(request.node, "has_failed", False):
        opener.tell()
    for context in opener.contexts:
        context.close()
    assert not opener.unexpected()


@pytest.fixture
def project(transactional_db):
    return make_project(slug="kitchen", guidelines="Be **kind**.")


@pytest.fixture
def annotator(project):
    return make_user("alice", project=project)


@pytest.fixture
def desk(browse, project, annotator):
    """The compare page with some pairs ready."""

    def open_page(pairs: int = 3, settings: dict | None = None, **options) -> Page:
        project.settings = settings or {}
        project.save()
        for number in range(1, pairs + 1):
            prompt = make_prompt(f"Question number {number}?", project=project)
            make_comparison(prompt=prompt)
        return browse(annotator, reverse("compare", args=["kitchen"]), **options)

    return open_page

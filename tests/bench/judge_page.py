"""The judge page in a real browser on the whole stack: weight, shifts, no JavaScript.

Leaves out whether each part works, which tests/browser asks.
"""

import statistics
import time
from collections.abc import Iterator

from playwright.sync_api import Browser, Page, StorageState, sync_playwright

from config.ops.browser import ensure_chromium
from tests.bench.figures import Budget, Figure
from tests.loop.stack import Stack

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage"]
PICKS = 10
NO_JAVASCRIPT_PICKS = 3
SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


def figures_of_the_page(stack: Stack, project: str) -> Iterator[Figure]:
    address = f"{stack.url}/projects/{project}/compare/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=ensure_chromium(), args=FLAGS
        )
        cookies = _signed_in(browser, stack)
        page = browser.new_context(storage_state=cookies).new_page()
        weight = _weight(page, address)
        yield Figure(
            "loop/page/weight",
            weight / 1000,
            "kB over the wire",
            budget=Budget("value", "≤", 150),
            note="first visit after signing in, headers included",
        )
        yield Figure(
            "loop/page/weight again", _weight(page, address) / 1000, "kB over the wire"
        )
        shift, times = _judged_by_keys(
            browser.new_context(storage_state=cookies).new_page(), address
        )
        yield Figure(
            "loop/page/layout shift",
            shift,
            "in all",
            budget=Budget("value", "≤", 0),
            note=f"Chromium's measure, loading and {PICKS} picks by key",
        )
        yield Figure(
            "loop/page/next pair",
            1000 * statistics.median(times),
            "ms",
            note="from the key to the next pair, ready to be judged; the median",
        )
        plain = browser.new_context(storage_state=cookies, java_script_enabled=False)
        yield Figure(
            "loop/page/without JavaScript",
            _judged_by_forms(plain.new_page(), address),
            "judged",
            budget=Budget("value", "≥", NO_JAVASCRIPT_PICKS),
            note=f"of {NO_JAVASCRIPT_PICKS}",
        )
        browser.close()


def _signed_in(browser: Browser, stack: Stack) -> StorageState:
    """Cookies of the demo's annotator, whose browser has seen the sign-in page alone."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{stack.url}/login/")
    page.get_by_label("Username").fill("annotator")
    page.get_by_label("Password").fill(stack.passwords()["annotator"])
    page.keyboard.press("Enter")
    page.wait_for_url(f"{stack.url}/")
    cookies = context.storage_state()
    context.close()
    return cookies


def _weight(page: Page, address: str) -> float:
    """Bytes that loading the page brings over the network; what is cached costs none."""
    loaded: list[float] = []
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on(
        "Network.loadingFinished",
        lambda event: loaded.append(event["encodedDataLength"]),
    )
    page.goto(address, wait_until="networkidle")
    _lease(page)
    network.detach()
    return sum(loaded)


def _judged_by_keys(page: Page, address: str) -> tuple[float, list[float]]:
    """Layout shift in all, and the seconds from each key to the next pair."""
    page.add_init_script(SHIFTS)
    page.goto(address, wait_until="networkidle")
    times = []
    for _pick in range(PICKS):
        lease = _lease(page)
        begun = time.perf_counter()
        page.keyboard.press("1")
        page.locator(f"#pair[data-lease]:not([data-lease='{lease}'])").wait_for()
        page.locator("#pair:not([data-busy])").wait_for()
        times.append(time.perf_counter() - begun)
        page.wait_for_load_state("networkidle")
    return page.evaluate("window.shifts"), times


def _judged_by_forms(page: Page, address: str) -> int:
    """Verdicts that led to another pair."""
    page.goto(address)
    judged = 0
    for _pick in range(NO_JAVASCRIPT_PICKS):
        lease = _lease(page)
        page.get_by_role("button", name="A is better").click()
        judged += _lease(page) != lease
    return judged


def _lease(page: Page) -> str:
    pair = page.locator("#pair[data-lease]")
    pair.wait_for()
    return pair.get_attribute("data-lease") or ""

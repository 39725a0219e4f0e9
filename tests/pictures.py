"""Takes the pictures of the README from a running stack: `make pictures`.

    python -m tests.pictures [--url http://127.0.0.1:8000] [--out docs/pictures]

Signs in with DATA_DIR/passwords.txt, judges a few pairs by keyboard if there are too few
to train on, starts a round if none is running, and waits until its curves have
something to show. Chromium as in the tests. Takes no part in the test suite.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
ENOUGH_PAIRS = 24


def sign_in(
    browser: Browser, url: str, username: str, password: str, **context
) -> Page:
    page = browser.new_context(base_url=url, **context).new_page()
    page.goto("/login/")
    page.get_by_label("Username").fill(username)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/")
    return page


def judge(page: Page, count: int) -> None:
    """Prefers the answer with more lines, then the longer one."""
    page.goto("/projects/demo/compare/")
    for _ in range(count):
        pair = page.locator("#pair[data-lease]")
        pair.wait_for(timeout=120_000)
        lease = pair.get_attribute("data-lease")
        first, second = page.locator(".answer-text").all_inner_texts()
        better = (first.count("\n"), len(first)) > (second.count("\n"), len(second))
        page.keyboard.press("1" if better else "2")
        page.wait_for_function(
            "old => document.querySelector('#pair').dataset.lease !== old", arg=lease
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "var")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = (args.data_dir / "passwords.txt").read_text().splitlines()
    passwords = dict(line.split(": ", 1) for line in lines)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )

        def person(name: str, **context) -> Page:
            return sign_in(browser, args.url, name, passwords[name], **context)

        wide = {"viewport": WIDE, "device_scale_factor": 1.5}
        narrow = {"viewport": NARROW, "device_scale_factor": 2}
        annotator = person("annotator", **wide)
        judge(annotator, ENOUGH_PAIRS)
        manager = person("manager", **wide)
        manager.goto("/projects/demo/rounds/")
        start = manager.get_by_role("button", name="Start the round")
        start.click()
        manager.wait_for_url("**/rounds/*/")
        manager.wait_for_function(
            # A function, not an expression: the page's CSP forbids eval.
            "() => { const bar = document.querySelector('progress');"
            " return bar && bar.value > 0.4 * bar.max; }",
            timeout=300_000,
        )
        time.sleep(3)  # The curves are drawn at the next look of the page.
        manager.screenshot(path=args.out / "round.png")

        for theme in ("light", "dark"):
            for name, context in (("wide", wide), ("narrow", narrow)):
                page = person("annotator", color_scheme=theme, **context)
                page.goto("/projects/demo/compare/")
                page.locator("#pair[data-lease]").wait_for(timeout=120_000)
                page.screenshot(path=args.out / f"compare-{name}-{theme}.png")
        shutil.copy(args.out / "compare-wide-light.png", args.out / "compare.png")
        browser.close()


if __name__ == "__main__":
    main()

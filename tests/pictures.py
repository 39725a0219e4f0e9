"""Takes a picture of every page into docs/pictures/: `make pictures`.

    python -m tests.pictures [--only compare,home] [--out docs/pictures]

Makes a database and a server of its own, filled by tests/example_project.py; no vLLM,
Redis or GPU. A page more is a line in PAGES; tests/test_pictures.py says which is
missing. Chromium as in the tests.
"""

import tests.environment  # noqa: I001  a data folder of its own, before Django looks

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

assert tests.environment

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
LANGUAGES = {"en": "en", "zh": "zh-CN"}
TALLEST = 2400
QUALITY = 74
"""Of WebP: text stays sharp, and all pictures together stay below 6 MB."""

Look = tuple[str, str, str]
SOME: list[Look] = [("wide", "light", "en"), ("narrow", "dark", "zh")]
MORE: list[Look] = [*SOME, ("wide", "dark", "zh"), ("narrow", "light", "en")]
ALL: list[Look] = [
    (size, theme, language)
    for size in SIZES
    for theme in ("light", "dark")
    for language in LANGUAGES
]


class Picture(NamedTuple):
    """One page: its file's name, its address, who looks at it, and how."""

    name: str
    path: str
    who: str = "manager"
    looks: list[Look] = SOME
    act: Callable[[Page], None] | None = None
    """What is done before the picture is taken."""


def _press(key: str, then: str) -> Callable[[Page], None]:
    def act(page: Page) -> None:
        page.keyboard.press(key)
        page.locator(then).first.wait_for()

    return act


def _unfold(page: Page) -> None:
    page.locator("main details").first.evaluate("one => one.open = true")


IN = "/projects/study-helper/"
PAGES = [
    Picture("compare", f"{IN}compare/", "code", ALL),
    Picture("compare-formulas", f"{IN}compare/", "formulas", MORE),
    Picture("compare-arabic", f"{IN}compare/", "arabic", MORE),
    Picture("compare-chinese", f"{IN}compare/", "chinese", MORE),
    Picture(
        "compare-differences",
        f"{IN}compare/",
        "chinese",
        MORE,
        _press("d", ".answer mark"),
    ),
    Picture("compare-keys", f"{IN}compare/", "code", SOME, _press("?", "dialog[open]")),
    Picture("waiting", "/projects/empty/compare/"),
    Picture("login", "/login/", ""),
    Picture("home", "/"),
    Picture("new-project", "/projects/new/"),
    Picture("overview", IN, "manager", MORE),
    Picture("history", f"{IN}history/", "annotator", SOME, _unfold),
    Picture("prompts", f"{IN}prompts/"),
    Picture("prompt", f"{IN}prompts/1/", "reviewer"),
    Picture("imports", f"{IN}import/"),
    Picture("import", "/imports/1/"),
    Picture("export", f"{IN}export/", "reviewer"),
    Picture("members", f"{IN}members/"),
    Picture("settings", f"{IN}settings/"),
    Picture("pairs", f"{IN}pairs/", "reviewer", SOME, _unfold),
    Picture("pair", f"{IN}pairs/3/", "reviewer", MORE),
    Picture("rules", f"{IN}rules/", "manager", MORE),
    Picture("review", f"{IN}review/", "reviewer", ALL),
    Picture("flagged", f"{IN}flagged/", "reviewer"),
    Picture("gold", f"{IN}gold/"),
    Picture("quality", f"{IN}quality/", "reviewer", MORE),
    Picture("rounds", f"{IN}rounds/"),
    Picture("round", "/rounds/2/", "manager", MORE),
    Picture("policies", f"{IN}policies/"),
    Picture("preferences", "/preferences/", "annotator"),
    Picture(
        "compare-last-ten",
        f"{IN}compare/",
        "code",
        SOME,
        _press("l", "#last-ten[open]"),
    ),
    Picture(
        "compare-edit",
        f"{IN}compare/",
        "chinese",
        MORE,
        _press("e", ".edit[open] .editor"),
    ),
    Picture("password", "/password/", "annotator"),
    Picture("not-found", "/nothing/here/"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--only", default="", help="names, or beginnings of names")
    args = parser.parse_args()
    only = tuple(part for part in args.only.split(",") if part)
    pages = [page for page in PAGES if not only or page.name.startswith(only)]
    args.out.mkdir(parents=True, exist_ok=True)
    # Nobody listens to nudges here; a socket that is not there refuses them at once.
    os.environ["REDIS_URL"] = "redis+socket:///nobody/listens"
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    _fill()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with _served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for page in pages:
            for look in page.looks:
                _take(browser, url, page, look, args.out)
            print(page.name, flush=True)
        browser.close()
    if not only:
        _gallery(args.out)
    total = sum(path.stat().st_size for path in args.out.glob("*.webp"))
    print(f"{total / 1e6:.1f} MB in {args.out}")


def _fill() -> None:
    import django

    django.setup()
    from django.core.management import call_command

    from tests.example_project import fill

    call_command("migrate", verbosity=0)
    fill()


@contextmanager
def _served() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "-b", address, "config.wsgi"]
    server = subprocess.Popen([*command, "--threads", "4"], cwd=ROOT)
    try:
        for _try in range(120):
            try:
                urlopen(f"http://{address}/livez", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait()


def _session(username: str) -> str:
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.test import Client

    client = Client()
    client.force_login(get_user_model().objects.get(username=username))
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def _take(browser: Browser, url: str, page: Picture, look: Look, out: Path) -> None:
    size, theme, language = look
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=1.5 if size == "narrow" else 1,
        has_touch=size == "narrow",
        is_mobile=size == "narrow",
        color_scheme=theme,
        locale=LANGUAGES[language],
        reduced_motion="reduce",
    )
    if page.who:
        context.add_cookies(
            [{"name": "sessionid", "value": _session(page.who), "url": url}]
        )
    tab = context.new_page()
    tab.goto(url + page.path)
    if page.act:
        page.act(tab)
    tab.wait_for_timeout(600)  # charts are drawn, fonts are there
    tall = tab.evaluate("document.documentElement.scrollHeight")
    # What sticks to the window's end would else lie across the middle of the page.
    tab.set_viewport_size({"width": width, "height": max(height, min(tall, TALLEST))})
    shot = tab.screenshot()
    name = f"{page.name}-{size}-{theme}-{language}.webp"
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(out / name, quality=QUALITY, method=6)
    context.close()


def _gallery(out: Path) -> None:
    """A page for GitHub and for a folder opened in an editor."""
    lines = [
        "# Pictures of every page",
        "",
        "Made by `make pictures` (tests/pictures.py), which writes this page too.",
    ]
    for page in PAGES:
        lines += ["", f"## {page.name}", ""]
        for size, theme, language in page.looks:
            file = f"{page.name}-{size}-{theme}-{language}.webp"
            words = f"{page.name}, {size}, {theme}, {language}"
            width = 480 if size == "wide" else 180
            lines.append(f'<img src="{file}" width="{width}" alt="{words}">')
    (out / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""What every test may count on. Fixtures of one app live in that app's conftest."""

import os
import shutil
from collections.abc import Iterator

import pytest
from django.utils import translation
from playwright.sync_api import Browser, sync_playwright

# Playwright's loop runs in this thread, which Django takes for asynchronous code.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The loop first: while one worker is at it, the other does the rest."""
    items.sort(key=lambda item: item.get_closest_marker("loop") is None)


@pytest.fixture(autouse=True)
def _plain_passwords(settings):
    """Hashing a password well costs a tenth of a second, in every test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _no_language_left() -> Iterator[None]:
    """A request in Chinese leaves its language behind, in this very thread."""
    yield
    translation.deactivate()


def chromium_path() -> str:
    """The one `make test` found, else one on PATH."""
    found = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    assert found, "No Chromium on PATH; on Debian: apt-get install chromium"
    return found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for the whole session."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()

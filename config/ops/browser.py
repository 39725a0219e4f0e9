"""Finds a Chromium for the browser tests, or installs one."""

import os
import shutil
import subprocess
from pathlib import Path

from .checks import Problem
from .install import PYTHON
from .steps import run
from .terminal import terminal

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WHERE = (
    "from playwright.sync_api import sync_playwright as s\n"
    "with s() as p: print(p.chromium.executable_path)"
)


def find_chromium() -> str:
    """CHROMIUM, one on the PATH, or the one Playwright installed; "" if none."""
    named = os.environ.get("CHROMIUM", "")
    for name in ([named] if named else []) + list(NAMES):
        if found := shutil.which(name):
            return found
    asked = subprocess.run([PYTHON, "-c", WHERE], capture_output=True, text=True)
    path = asked.stdout.strip()
    return path if path and Path(path).exists() else ""


def ensure_chromium() -> str:
    """The path of a Chromium; raises Problem when none can be had."""
    if found := find_chromium():
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        terminal.line("No Chromium here: installing Debian's …")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        apt = ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0"]
        if run([*apt, "install", "--no-install-recommends", "chromium"], env) != 0:
            run([*apt, "update"], env)
            run([*apt, "install", "--no-install-recommends", "chromium"], env)
    if found := find_chromium():
        return found
    terminal.line("No Chromium here: installing Playwright's …")
    deps = ["--with-deps"] if os.geteuid() == 0 else []
    run([PYTHON, "-m", "playwright", "install", *deps, "chromium"])
    if found := find_chromium():
        return found
    raise Problem(
        "The browser tests need Chromium and none could be installed. Install it "
        "(Debian: apt-get install chromium) or name one: CHROMIUM=/path make test"
    )

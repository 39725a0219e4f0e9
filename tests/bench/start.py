"""From a fresh clone to the first pair on screen, then the same again.

`make run` in a clone of the last commit without .venv, its packages over the network
and nothing from pip's cache; then Ctrl-C and `make run` once more. Takes minutes and
some 10 GiB of disk; left out with --quick.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.bench.figures import ROOT, Budget, Figure, load
from tests.bench.options import Options
from tests.bench.processes import BenchError, tail
from tests.loop.stack import NOT_FOR_THE_STACK
from tests.processes import free_port

LONGEST = 1800.0
BUDGETS = {"first": Budget("value", "≤", 360), "again": Budget("value", "≤", 60)}
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')


def measure(options: Options) -> Iterator[Figure]:
    if options.quick:
        options.say("start: left out with --quick")
        return
    clone, port = options.folder / "clone", free_port()
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    for name, budget in BUDGETS.items():
        options.say(f"start: make run, {name}")
        busy = load()
        with _make_run(clone, port) as (process, log):
            begun = time.monotonic()
            ready = _until(
                lambda: f"ready: http://127.0.0.1:{port}" in log.read_text("utf-8"),
                process,
                log,
            )
            shown = _until(lambda: _first_pair(clone, port), process, log)
        yield Figure(
            f"start/{name}",
            shown - begun,
            "s to a pair",
            budget=budget,
            note=f"ready line after {ready - begun:.0f} s; {busy} at the start",
        )


@contextmanager
def _make_run(clone: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`make run` while the block runs; Ctrl-C ends it."""
    log = clone.with_suffix(".log")
    kept = {name: os.environ[name] for name in os.environ.keys() - NOT_FOR_THE_STACK}
    env = {
        **kept,
        "PORT": str(port),
        "VLLM_PORT": str(free_port()),
        "PIP_CACHE_DIR": str(clone.with_suffix(".cache")),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "run"],
            cwd=clone,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(120)


def _until(
    probe: Callable[[], bool], process: subprocess.Popen[bytes], log: Path
) -> float:
    """When it came true. Raises BenchError where `make run` ends or takes too long."""
    deadline = time.monotonic() + LONGEST
    while not probe():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"make run did not come up:\n{tail(log)}")
        time.sleep(0.2)
    return time.monotonic()


def _first_pair(clone: Path, port: int) -> bool:
    """Whether the demo's annotator, signed in by form, is shown a pair."""
    lines = (clone / "var" / "passwords.txt").read_text("utf-8").splitlines()
    passwords = dict(line.split(": ", 1) for line in lines)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", follow_redirects=True, trust_env=False
    ) as browser:
        token = TOKEN.search(browser.get("/login/").text)
        if token is None:
            raise BenchError("the sign-in page has no form")
        browser.post(
            "/login/",
            data={
                "username": "annotator",
                "password": passwords["annotator"],
                "csrfmiddlewaretoken": token[1],
            },
        )
        return "data-lease=" in browser.get("/projects/demo/compare/").text

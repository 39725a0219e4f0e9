"""The commands behind `make`, one function each."""

import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from . import checks, install, steps
from .checks import ROOT, Problem
from .install import PYTHON
from .terminal import terminal

PYTEST: list[str | Path] = [PYTHON, "-m", "pytest"]
IN_TWO = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
"""Two processes, each test file whole in one of them, begun in the order of the tests.

Half the suite waits for vLLM, browsers and workers while the other half computes. Two
on every machine: that is what the time limits of the tests were tried with.
"""
NO_TESTS = 5
"""pytest's exit code when it collected nothing."""


def run(arguments: list[str]) -> int:
    """Everything from checks to a running stack; does not return before its end."""
    settings = checks.read_settings()
    if os.environ.get("MAKELEVEL"):
        # make killed with -9 must not leave us behind either.
        ctypes.CDLL(None).prctl(steps.PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    checks.make_data_dir(settings.data_dir)
    checks.check_disk(settings.data_dir, checks.ROOM_TO_RUN, "running Tiebreak")
    lock = checks.lock_instance(settings.data_dir)
    checks.wait_for_earlier_parts(settings.data_dir)
    checks.check_ports(settings)
    install.ensure()
    # The rest needs the installed packages. The lock stays with this process.
    os.set_inheritable(lock, True)
    os.execv(PYTHON, [str(PYTHON), str(ROOT / "config" / "bootstrap.py"), "_stack"])


def stack(arguments: list[str]) -> int:
    """The second half of `run`, under the Python of `.venv`."""
    from .parts import announce_when_ready, parts_for
    from .stack import supervise

    settings = checks.read_settings()
    os.chdir(ROOT)
    os.environ["PYTHONUNBUFFERED"] = "1"
    code = steps.run([PYTHON, "-m", "config.ops.prepare"])
    if code != 0:
        return code
    facts = json.loads((settings.data_dir / "run" / "facts.json").read_text())
    parts = parts_for(settings, Path(facts["redis_socket"]))
    terminal.line(f"Starting {', '.join(part.name for part in parts)} …")
    return supervise(
        parts,
        settings.data_dir,
        started=lambda ending: announce_when_ready(settings, ending),
    )


def test(arguments: list[str], marker: str = "not long") -> int:
    """The tests of both databases on PostgreSQL, then the whole suite on SQLite.

    With arguments, pytest gets those, in one process, and nothing else happens.
    """
    from .browser import ensure_chromium

    install.ensure(dev=True)
    env = {**os.environ, "CHROMIUM": ensure_chromium()}
    if arguments:
        return steps.run([*PYTEST, *arguments], env)
    # Threads that wait for each other's cores spin: a thread a process is quicker.
    env.setdefault("OMP_NUM_THREADS", "1")
    terminal.line("Tests of locks, constraints and queries on PostgreSQL:")
    postgres: list[str | Path] = [PYTHON, ROOT / "config" / "ops" / "postgres.py"]
    chosen = f"both_databases and {marker}" if marker else "both_databases"
    first = steps.run([*postgres, *PYTEST, *IN_TWO, "-m", chosen], env)
    terminal.line("The whole suite on SQLite:")
    second = steps.run([*PYTEST, *IN_TWO, *(["-m", marker] if marker else [])], env)
    if first not in (0, NO_TESTS):
        terminal.line("The tests on PostgreSQL, further up, failed.")
    return second or (first if first != NO_TESTS else 0)


def test_all(arguments: list[str]) -> int:
    return test(arguments, marker="")


def lint(arguments: list[str]) -> int:
    """ruff and mypy; all of them, whatever the first ones say."""
    install.ensure(dev=True)
    short = ["--output-format", "concise"]
    tools = {
        "ruff check": ["ruff", "check", *short, "."],
        "ruff format": ["ruff", "format", "--check", *short, "."],
        "mypy": ["mypy"],
    }
    failed = [n for n, tool in tools.items() if steps.run([PYTHON, "-m", *tool]) != 0]
    if failed:
        terminal.line(f"lint failed: {', '.join(failed)}")
    return 1 if failed else 0


def bench(arguments: list[str]) -> int:
    install.ensure(dev=True)
    return steps.run([PYTHON, "-m", "tests.bench", *arguments])


def simulate(arguments: list[str]) -> int:
    install.ensure()
    return steps.run([PYTHON, "manage.py", "simulate", *arguments])


def messages(arguments: list[str]) -> int:
    """The Chinese catalog brought up to date with the code, and compiled."""
    if not shutil.which("xgettext"):
        raise Problem("GNU gettext is missing; on Debian: apt-get install gettext")
    install.ensure()
    manage: list[str | Path] = [PYTHON, "manage.py"]
    make = [*manage, "makemessages", "-l", "zh_Hans", "--no-location", "--no-wrap"]
    make += ["--no-obsolete", "-i", ".venv", "-i", "var", "-i", "tests"]
    compiled = [*manage, "compilemessages", "-l", "zh_Hans", "-i", ".venv"]
    return steps.run(make) or steps.run(compiled)


def pictures(arguments: list[str]) -> int:
    """A picture of every page, into docs/pictures."""
    from .browser import ensure_chromium

    install.ensure(dev=True)
    env = {**os.environ, "CHROMIUM": ensure_chromium()}
    return steps.run([PYTHON, "-m", "tests.pictures", *arguments], env)


def clean(arguments: list[str]) -> int:
    """Removes what can be made again: the environment and caches. Data stays."""
    caches = [".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"]
    for folder in [install.VENV, *(ROOT / name for name in caches)]:
        shutil.rmtree(folder, ignore_errors=True)
    for package in ("config", "inference", "annotation", "training", "tests"):
        for folder in (ROOT / package).rglob("__pycache__"):
            shutil.rmtree(folder, ignore_errors=True)
    data = checks.read_settings().data_dir
    shutil.rmtree(data / "reference-cache", ignore_errors=True)
    terminal.line(f"Removed .venv and caches. All else in {data} is kept.")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "_stack": stack,
    "test": test,
    "test-all": test_all,
    "lint": lint,
    "bench": bench,
    "simulate": simulate,
    "messages": messages,
    "pictures": pictures,
    "clean": clean,
}


def main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        known = ", ".join(c for c in COMMANDS if not c.startswith("_"))
        print(f"tiebreak: say what to do: {known}", file=sys.stderr)
        return 2
    steps.exit_on_sigterm()
    try:
        return COMMANDS[name](arguments[1:])
    except Problem as problem:
        terminal.line(f"tiebreak: {problem}")
        return 1
    except KeyboardInterrupt:
        terminal.line("Interrupted; the same command goes on where it stopped.")
        return 130

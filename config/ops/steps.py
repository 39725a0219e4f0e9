"""Runs one command of a longer job; nothing of it survives this process."""

import contextlib
import ctypes
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from .checks import ROOT

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def exit_on_sigterm() -> None:
    """Make SIGTERM an exception, so that `finally` ends what is running."""

    def leave(signum: int, frame: object) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    output: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The running command; ended on the way out, whatever the reason."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL if output else None,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        preexec_fn=_die_with_parent,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
    """Run a command in this terminal; its exit code (128 + n when ended by signal n)."""
    with started(command, env) as process:
        code = process.wait()
    return code if code >= 0 else 128 - code


def run_logged(
    command: Sequence[str | Path], log: Path, watch: Callable[[], None]
) -> int:
    """Run a command into a log file, calling `watch` twice a second; its exit code."""
    with log.open("ab") as output, started(command, output=output) as process:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.5)
            watch()

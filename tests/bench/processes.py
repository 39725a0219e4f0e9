"""Programs run beside the bench: measured to their end, or kept while a block runs.

This process stays small (no torch, no Django): the peak memory that Linux tells of a
child begins at the size of whoever started it.
"""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import ROOT

STOP_SECONDS = 15.0
START_SECONDS = 120.0


class BenchError(Exception):
    """Something to be measured did not work; the message is for people."""


@dataclass(frozen=True)
class Ended:
    """`peak_bytes`: the largest resident memory of the process, all of it counted."""

    seconds: float
    peak_bytes: int


def run_to_end(command: Sequence[str], log: Path, env: Mapping[str, str]) -> Ended:
    """Run a program, its output in `log`. Raises BenchError with the log's end."""
    started = time.monotonic()
    with _started(command, log, env) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise BenchError(
            f"{' '.join(command[1:4])} … ended with {process.returncode}:\n{tail(log)}"
        )
    return Ended(time.monotonic() - started, usage.ru_maxrss * 1024)


def run_shown(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a program whose progress people see. Raises BenchError where it failed."""
    ended = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env={**os.environ, **env}
    )
    if ended.returncode:
        raise BenchError(f"{' '.join(command[1:4])} … ended with {ended.returncode}")


@contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str], url: str
) -> Iterator[None]:
    """A server that answers at `url` while the block runs, and is gone afterwards."""
    with _started(command, log, env) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{url} does not answer:\n{tail(log)}")
            time.sleep(0.1)
        yield


@contextmanager
def background(
    command: Sequence[str], log: Path, env: Mapping[str, str], ready: Path
) -> Iterator[None]:
    """A program that is ready once the file (or socket) `ready` is there."""
    with _started(command, log, env) as process:
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{command[0]} did not start:\n{tail(log)}")
            time.sleep(0.05)
        yield


@contextmanager
def _started(
    command: Sequence[str], log: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    process = start(command, log, env)
    try:
        yield process
    finally:
        stop(process)


def start(
    command: Sequence[str], log: Path, env: Mapping[str, str], talks: bool = False
) -> subprocess.Popen[bytes]:
    """A program, its output in `log`; one that `talks` is spoken to through pipes."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else output,
            stderr=output,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and, should it not listen, its whole process group."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])

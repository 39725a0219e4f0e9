"""The trainer as a process: started, stopped, killed; never two of them for a round.

A file lock is handed down to the trainer and to nobody else, so the kernel says
whether one still runs, even if its supervisor was killed or is paused. Leaves out
what the trainer writes; see ingest.py.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from inference.priority import TRAINER, give_way
from training.dpo.process import PARENT_VARIABLE

STDOUT, STDERR = "stdout.log", "stderr.log"
LOCK = "trainer.lock"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class TrainerStillThere(Exception):
    """Another trainer of this round holds the lock; `pid` is 0 where not known."""

    def __init__(self, pid: int):
        super().__init__(f"a trainer of this round still runs (process {pid or '?'})")
        self.pid = pid


@dataclass
class RoundLock:
    """The round's lock, held from before its trainer starts until that trainer ends."""

    descriptor: int | None

    def release(self) -> None:
        """Give up this process's hold; a trainer started meanwhile keeps its own."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def take_lock(folder: Path) -> RoundLock:
    """Take the round's lock. Raises TrainerStillThere while a trainer holds it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise TrainerStillThere(int(text) if text.isdigit() else 0) from None
    return RoundLock(descriptor)


def signal_stray(pid: int, folder: Path, signum: int) -> bool:
    """Signal the group of an earlier attempt's trainer, if it is one on this host."""
    if pid <= 1 or str(folder).encode() not in _command(pid):
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)
        return True
    return False


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass
class Trainer:
    """A running `python -m training.dpo FOLDER`, leader of its own process group."""

    folder: Path
    process: subprocess.Popen

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def wait(self, seconds: float) -> None:
        """Until it ends, at most `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def signal(self, signum: int) -> None:
        """To its whole group.

        The processes of torchrun lead sessions of their own: it passes SIGTERM on to
        them, and they stop by themselves when it is gone.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signum)

    def stop(self) -> None:
        self.signal(signal.SIGTERM)

    def close(self) -> None:
        """Nothing of the group outlives its supervisor; no wait without a bound."""
        self.signal(signal.SIGKILL)
        self.wait(10)

    def last_words(self) -> str:
        """The last line on stderr that says something, or an empty text."""
        return last_line(self.folder / STDERR)


def start(folder: Path, lock: RoundLock) -> Trainer:
    """Start the trainer in its run folder; `lock` passes to it and is released here.

    Raises OSError, and none runs then: one whose id is in no file could not be ended.
    """
    if lock.descriptor is None:
        raise ValueError("the round's lock is not held")
    parent = os.getpid()
    environment = dict(os.environ)
    # torchrun lies beside our Python, whose folder is on the PATH of a shell at most.
    places = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    environment["PATH"] = os.pathsep.join(places)
    if settings.TRAINER_COMMAND[0] == sys.executable:
        # Our own trainer watches its parent itself, and ends even if a step hangs.
        environment[PARENT_VARIABLE] = str(parent)

    def tie_to_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(75)
        give_way(TRAINER)

    with (
        open(folder / STDOUT, "ab") as stdout,
        open(folder / STDERR, "ab") as stderr,
    ):
        process = subprocess.Popen(
            [*settings.TRAINER_COMMAND, str(folder)],
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=[lock.descriptor],
            preexec_fn=tie_to_parent,
        )
    trainer = Trainer(folder, process)
    try:
        os.ftruncate(lock.descriptor, 0)
        os.pwrite(lock.descriptor, str(process.pid).encode(), 0)
    except OSError:
        trainer.close()
        raise
    lock.release()
    return trainer


def last_line(path: Path, most: int = 8192) -> str:
    """The last non-blank line of a log; a progress bar's carriage return ends one."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return lines[-1][:500] if lines else ""

"""One trainer at a time in a run folder.

The kernel drops the lock when its holder dies, however it dies, so a stale lock
cannot exist; the file itself stays. Leaves out locks across hosts whose shared
filesystem does not carry flock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from training.dpo.errors import FolderLocked, TrainerError


@contextmanager
def folder_lock(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir/.lock`; raise FolderLocked at once if someone else does.

    Raises TrainerError for a folder that cannot be written.
    """
    try:
        descriptor = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TrainerError(
            f"{run_dir} cannot be written ({error.strerror}): a run keeps its lock, its"
            " checkpoints and what it leaves there; give this user the right to write,"
            " or copy config.json and the rows to a folder of your own."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise FolderLocked(
                f"{run_dir} is locked by another trainer"
                f" (process {holder or 'unknown'}); wait for it or stop it first."
            ) from None
        with suppress(OSError):  # on a full disk; it only tells who holds the lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)

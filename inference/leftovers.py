"""Folders that a crash left behind while they were being made. Leaves out which those are."""

import contextlib
import shutil
import time
from pathlib import Path

LEFT_AFTER = 24 * 3600.0
"""Seconds without a change after which nobody makes such a folder any more."""


def sweep(parent: Path, prefix: str) -> int:
    """Remove those below `parent` whose names begin so; how many."""
    done = 0
    for folder in parent.glob(f"{prefix}*"):
        # Another sweep, or who made it, may be quicker.
        with contextlib.suppress(FileNotFoundError):
            if folder.stat().st_mtime < time.time() - LEFT_AFTER:
                shutil.rmtree(folder, ignore_errors=True)
                done += 1
    return done

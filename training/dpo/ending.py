"""How the processes of a run end together: one sentence, whichever process it came from.

The process that fails says so in the store that torchrun keeps, then ends; the others
find their connections to it closed and read there why. One that was killed says
nothing. Leaves out the single process, which ends as it likes.
"""

import json
import time
from pathlib import Path

import torch.distributed as dist

from training.dpo.distributed import rank, world_size
from training.dpo.errors import (
    FolderLocked,
    PeerLost,
    Stopped,
    TrainerError,
    sentence_of,
)
from training.dpo.lock import folder_lock
from training.dpo.status import StatusFile, read_status

_KEY = "training.dpo/ending"

LOOKS, LOOK_SECONDS = 20, 0.05
"""For the lock of a process 0 that may be dying."""


def common_ending(error: Exception) -> Exception:
    """`error`, or what another process of the run ended with before this one.

    A connection that closed without a word is a process that was killed: PeerLost.
    """
    if world_size() == 1:
        return error
    stopped = isinstance(error, Stopped)
    if stopped or isinstance(error, TrainerError) or not _lost_connection(error):
        told = _tell("stopped" if stopped else "failed", sentence_of(error))
        return error if told is None else told
    return _told() or PeerLost(
        f"another process of the run was lost, which process {rank()} noticed; start it"
        " again to go on from the newest checkpoint"
    )


def speak_for_main(run_dir: Path, ending: PeerLost) -> None:
    """Where the process that was lost is 0, write status.json in its stead.

    Its lock on the folder is free then; while it lives, it speaks for itself.
    """
    for _ in range(LOOKS):
        try:
            with folder_lock(run_dir):
                told = read_status(run_dir)
                if told.get("state") == "running":
                    status = StatusFile(run_dir)
                    status.values |= told
                    status.finish("stopped", str(ending))
                return
        except FolderLocked:
            time.sleep(LOOK_SECONDS)


def _lost_connection(error: Exception) -> bool:
    """Whether this is how torch says that a peer is gone (gloo has no error class)."""
    words = ("gloo", "Connection closed", "Connection reset", "Broken pipe", "NCCL")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _tell(state: str, sentence: str) -> Exception | None:
    """Say how the run ends; what another process said first, if one did."""
    mine = json.dumps([rank(), state, sentence])
    try:
        store = dist.distributed_c10d._get_default_store()
        first = store.compare_set(_KEY, "", mine).decode()
    except (dist.DistError, RuntimeError):
        return None  # the store went with torchrun; nobody is left to disagree
    return None if first == mine else _read(first)


def _told() -> Exception | None:
    try:
        store = dist.distributed_c10d._get_default_store()
        return _read(store.get(_KEY).decode()) if store.check([_KEY]) else None
    except (dist.DistError, RuntimeError):
        return None


def _read(text: str) -> Exception:
    _, state, sentence = json.loads(text)
    return Stopped(sentence) if state == "stopped" else TrainerError(sentence)

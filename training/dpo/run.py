"""A run from its folder's inputs to its outputs; what `python -m training.dpo` calls.

Prepares (`prepare.py`), then hands over to the loop (`train.py`) and the outputs
(`outputs.py`). Leaves out the process around it; see `__main__.py`.
"""

import time
from contextlib import suppress
from pathlib import Path

import torch

from training.dpo.checkpoint import named_step
from training.dpo.config import load_config
from training.dpo.distributed import is_main, run_lock
from training.dpo.ending import common_ending, speak_for_main
from training.dpo.errors import PeerLost, Stopped, TrainerError, sentence_of
from training.dpo.outputs import write_outputs
from training.dpo.preflight import check_room, look_ahead
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.status import StatusFile
from training.dpo.train import train


def run_folder(run_dir: Path, stop: StopFlag) -> None:
    """Do the run in `run_dir`.

    Raises FolderLocked (and writes nothing) if another trainer is at it; Stopped and
    TrainerError once status.json says so; any other exception likewise.
    """
    with run_lock(run_dir):
        status = StatusFile(run_dir, is_main())
        try:
            stop.check()
            _run(run_dir, stop, status)
        except Exception as error:
            ending = common_ending(explained(error))
            state = "stopped" if isinstance(ending, Stopped) else "failed"
            with suppress(OSError):  # a disk so full that stderr alone can tell
                status.finish(state, sentence_of(ending))
            if isinstance(ending, PeerLost) and not is_main():
                speak_for_main(run_dir, ending)
            if ending is error:
                raise
            raise ending from error
        status.finish("done")


def check_folder(run_dir: Path, stop: StopFlag) -> None:
    """Look at the run in `run_dir` without doing it: preflight.json, and what it says.

    Neither status.json nor anything of a run that was done is touched. Raises
    FolderLocked, TrainerError.
    """
    with run_lock(run_dir):
        status = StatusFile(run_dir, writes=False)
        config = load_config(run_dir / "config.json")
        try:
            stop.check()
            look_ahead(
                prepare(run_dir, config, stop, status, is_check=True), is_check=True
            )
        except Exception as error:
            ending = common_ending(explained(error))
            if ending is error:
                raise
            raise ending from error


def explained(error: Exception) -> Exception:
    """`error`, or a TrainerError in plain words where its cause is well known."""
    if isinstance(error, torch.OutOfMemoryError):  # an accelerator's, no processor's
        return TrainerError(
            "Out of memory on the GPU: set micro_batch_size to 1 and"
            " savings.checkpointing to true and resume, or lower max_length in a fresh"
            " run folder."
        )
    cpu_is_full = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if cpu_is_full or isinstance(error, MemoryError):
        return TrainerError(
            "Out of memory: set micro_batch_size to 1 and savings.side_by_side to false"
            " and resume, or lower max_length in a fresh run folder."
        )
    full = ("No space left on device", "Disk quota exceeded")
    if any(words in str(error) for words in full):
        return TrainerError("The disk is full; free some space and resume.")
    return error


def _run(run_dir: Path, stop: StopFlag, status: StatusFile) -> None:
    started = time.monotonic()
    config = load_config(run_dir / "config.json")
    step = named_step(run_dir) or named_step(Path(config.resume_from or run_dir))
    status.phase("loading", step=step)
    prepared = prepare(run_dir, config, stop, status)
    look_ahead(prepared, is_resumed=prepared.run.source is not None)
    stop.check()
    position = train(prepared.run)
    stop.check()
    check_room(prepared.run)
    write_outputs(prepared, position, started)
    prepared.run.anchor.drop_weights()

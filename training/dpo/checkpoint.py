"""Checkpoints that are complete or not there: checkpoints/step-00000012/.

A checkpoint is written into `tmp-…`, flushed, renamed, and then marked by a file
`COMPLETE` holding the sha256 of each of its files. Resuming takes the newest one whose
marker agrees with its files; the two newest are kept. `state.safetensors` holds
tensors, `state.json` the rest; nothing is pickled. Leaves out what goes in.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.dpo.errors import TrainerError
from training.dpo.files import fsync_path, sha256_of_file, write_json

KEPT = 2
ROOM = 2.5
"""Free disk wanted before a checkpoint, in sizes of it."""

TENSORS, STATE, MARKER = "state.safetensors", "state.json", "COMPLETE"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write `folder/step-…` and drop all but the newest two.

    Raises TrainerError if the disk is too full; the older checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    _check_disk(folder, size)
    final = folder / f"step-{step:08d}"
    if _is_complete(final):
        return final
    temporary = folder / f"tmp-step-{step:08d}"
    for leftover in (temporary, final):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        save_file(on_cpu, temporary / TENSORS)
        fsync_path(temporary / TENSORS)
        write_json(temporary / STATE, state | {"step": step})
        os.replace(temporary, final)
        fsync_path(folder)
        hashes = {name: sha256_of_file(final / name) for name in (TENSORS, STATE)}
        write_json(final / MARKER, hashes)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainerError(
            f"The checkpoint of step {step} could not be written ({error});"
            " free some disk space and resume."
        ) from error
    _prune(folder)
    return final


def _check_disk(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < ROOM * size:
        raise TrainerError(
            f"The disk is too full for a checkpoint: {free / 1e6:.1f} MB free,"
            f" {ROOM * size / 1e6:.1f} MB wanted; free some space and resume."
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, or None."""
    for path in sorted(_checkpoints(folder), reverse=True):
        if _is_complete(path):
            return path
    return None


def drop_broken(folder: Path) -> None:
    """Remove what a crash left half-written, so that it never counts as kept."""
    for path in _checkpoints(folder):
        if not _is_complete(path):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("tmp-step-*"):
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) of a checkpoint folder; state has "step"."""
    return load_file(path / TENSORS), json.loads((path / STATE).read_text("utf-8"))


def find_resume_source(path: Path) -> Path:
    """The checkpoint that config.json's `resume_from` means.

    A checkpoint folder itself, or the newest in a run folder. Raises TrainerError.
    """
    found = path if _is_complete(path) else newest_checkpoint(path / "checkpoints")
    if found is None:
        raise TrainerError(
            f'config.json: "resume_from" {path} holds no complete checkpoint.'
        )
    return found


def named_step(path: Path) -> int:
    """The step of a checkpoint folder, or of the newest in a run folder; 0: there is none.

    By the names alone, for who cannot wait until the hashes are taken.
    """
    found = [path, *_checkpoints(path / "checkpoints")]
    steps = [p.name.removeprefix("step-") for p in found if (p / MARKER).exists()]
    return max((int(step) for step in steps if step.isdecimal()), default=0)


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if re.fullmatch(r"step-\d{8,}", p.name)]


def _is_complete(path: Path) -> bool:
    try:
        hashes = json.loads((path / MARKER).read_text("utf-8"))
        return set(hashes) == {TENSORS, STATE} and all(
            sha256_of_file(path / name) == value for name, value in hashes.items()
        )
    except (OSError, ValueError):
        return False


def _prune(folder: Path) -> None:
    for path in sorted(_checkpoints(folder), reverse=True)[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)

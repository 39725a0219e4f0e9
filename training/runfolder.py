"""Files of a round: what was frozen, and a run folder (design §5.2) for each attempt.

    rounds/<id>/pairs.jsonl, held_out.jsonl      frozen when the round was made
    rounds/<id>/attempt-<epoch>/                 one attempt's run folder
    rounds/.making-<token>/                      frozen files of a round without a row yet

Leaves out the database; what the trainer writes is read in ingest.py.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings

from inference import leftovers
from inference.models import Policy
from training.dpo.files import fsync_path, sha256_of_file, write_json
from training.models import TrainingRound

PAIRS, HELD_OUT = "pairs.jsonl", "held_out.jsonl"
MAKING = ".making-"


class FrozenFileChanged(Exception):
    """pairs.jsonl is no longer what the round froze."""


def write_frozen(pairs: Iterable[dict], held_out: Iterable[dict]) -> tuple[Path, str]:
    """Both files, durably, in a folder of their own; it and the sha256 of pairs.jsonl.

    Call it before the transaction that makes the row, which `give_name` ends: reading
    and writing takes longer the more pairs there are, and SQLite has one writer. Raises
    OSError, and leaves nothing then.
    """
    folder = settings.ROUNDS_DIR / f"{MAKING}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True)
        digest = _write_lines(folder / PAIRS, pairs)
        _write_lines(folder / HELD_OUT, held_out)
        fsync_path(folder)
    except BaseException:
        discard(folder)
        raise
    return folder, digest


def give_name(made: Path, training_round: TrainingRound) -> None:
    """Make `made` the round's folder, inside the transaction that makes its row.

    A crash before the commit leaves a folder that nothing points at, which the next
    round of that id moves away. Raises OSError.
    """
    folder = training_round.folder
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-orphan-{secrets.token_hex(4)}"))
    made.rename(folder)
    fsync_path(folder.parent)


def discard(made: Path) -> None:
    shutil.rmtree(made, ignore_errors=True)


def sweep_making() -> int:
    """Remove what crashes left while rounds were being made; how many."""
    return leftovers.sweep(settings.ROUNDS_DIR, MAKING)


def _write_lines(path: Path, rows: Iterable[dict]) -> str:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for row in rows:
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            digest.update(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def attempt_folder(training_round: TrainingRound, epoch: int) -> Path:
    return training_round.folder / f"attempt-{epoch}"


def attempts(training_round: TrainingRound) -> list[tuple[int, Path]]:
    """(epoch, folder) of each attempt made so far, oldest first."""
    found = []
    if training_round.folder.is_dir():
        for path in training_round.folder.iterdir():
            if match := re.fullmatch(r"attempt-(\d+)", path.name):
                found.append((int(match[1]), path))
    return sorted(found)


def newest_checkpoint_step(folder: Path) -> int | None:
    """The step of the newest checkpoint marked complete in a run folder, or None.

    The trainer itself checks the hashes in the marker before it goes on from it.
    """
    steps = [
        int(marker.parent.name.removeprefix("step-"))
        for marker in folder.glob("checkpoints/step-*/COMPLETE")
        if marker.parent.name.removeprefix("step-").isdigit()
    ]
    return max(steps, default=None)


def resume_source(training_round: TrainingRound, before: int) -> Path | None:
    """The run folder, of attempts before epoch `before`, that got furthest."""
    best: tuple[int, int, Path] | None = None
    for epoch, folder in attempts(training_round):
        step = newest_checkpoint_step(folder)
        if epoch < before and step is not None:
            best = max(best or (-1, -1, folder), (step, epoch, folder))
    return best[2] if best else None


def prepare_attempt(training_round: TrainingRound, epoch: int) -> Path:
    """Make the run folder of this attempt: links to the frozen files, config.json.

    Raises FrozenFileChanged where pairs.jsonl has another hash than the row says.
    """
    frozen = training_round.folder / PAIRS
    if not frozen.exists() or sha256_of_file(frozen) != training_round.pairs_sha256:
        raise FrozenFileChanged(frozen.name)
    folder = attempt_folder(training_round, epoch)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PAIRS, HELD_OUT):
        source, target = training_round.folder / name, folder / name
        if source.exists() and source.stat().st_size and not target.exists():
            _link(source, target)
    write_json(folder / "config.json", trainer_config(training_round, epoch))
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some network filesystems have no links
        shutil.copyfile(source, target)


def trainer_config(training_round: TrainingRound, epoch: int) -> dict[str, Any]:
    """config.json of an attempt: what was asked for, and what only the round knows."""
    start = training_round.start
    # An adapter's row remembers where its base lay then; the base's own row, now.
    base = Policy.objects.get(number=0, base_sha256=start.base_sha256)
    source = resume_source(training_round, epoch)
    return {
        "dtype": settings.MODEL_DTYPE,
        **training_round.config,
        "base_model": base.base_model,
        "parent_adapter": None if start.is_base else str(start.adapter_path),
        "reference": training_round.reference,
        "resume_from": str(source) if source else None,
        # By content, so one for all rounds: a pair is measured once, not once a round.
        "reference_cache": str(settings.REFERENCE_CACHE_DIR),
    }

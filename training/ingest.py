"""What a trainer writes, read while it writes: metrics.jsonl and status.json.

Leaves out what the figures mean (reading.py) and whose attempt may store them
(attempts.heartbeat decides, in the same transaction).
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from django.db import connection

from training.models import RoundMetric, RoundPair, TrainingRound

logger = logging.getLogger(__name__)

LONGEST_READ = 8 * 1024 * 1024
"""Bytes read of metrics.jsonl at a time; the rest comes with the next look."""


LARGEST = 2**31 - 1
"""Of an integer column; a run of a billion epochs has more steps, until it is cancelled."""


class MetricsReader:
    """Follows metrics.jsonl; a half-written last line waits until it is whole."""

    def __init__(self, path: Path):
        self.path = path
        self.offset = 0
        self.inode = 0

    def new_rows(self) -> list[dict[str, Any]]:
        """The complete lines that were added since the last call."""
        try:
            with open(self.path, "rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self.inode or stat.st_size < self.offset:
                    # Replaced: a resume keeps each step once by writing it anew.
                    self.inode, self.offset = stat.st_ino, 0
                file.seek(self.offset)
                block = file.read(LONGEST_READ)
        except FileNotFoundError:
            return []
        whole, newline, _rest = block.rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        return [row for line in whole.split(b"\n") if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        # NaN is no JSON and no database takes it: the chart shows a gap instead.
        row = json.loads(line, parse_constant=lambda _name: None)
    except ValueError:
        logger.warning("a line of metrics.jsonl is no JSON: %.80r", line)
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        logger.warning("a line of metrics.jsonl has no step: %.80r", line)
        return None
    return row


def store_metrics(training_round: TrainingRound, rows: list[dict[str, Any]]) -> None:
    """Keep each step once: a step that comes again replaces its row."""
    by_step = {(row.get("phase") or "dpo", row["step"]): row for row in rows}
    RoundMetric.objects.bulk_create(
        [
            RoundMetric(
                training_round=training_round,
                phase=phase,
                step=step,
                values={k: v for k, v in row.items() if k not in ("phase", "step")},
                is_evaluated=any(name.startswith("eval_") for name in row),
            )
            for (phase, step), row in by_step.items()
        ],
        batch_size=500,
        update_conflicts=True,
        unique_fields=["training_round", "phase", "step"],
        update_fields=["values", "is_evaluated"],
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file the trainer replaces atomically; empty while it is not there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def progress_of(status: dict[str, Any]) -> dict[str, Any]:
    """The columns of a round that status.json fills; only those it speaks of."""
    columns: dict[str, Any] = {"eta_seconds": status.get("eta_seconds")}
    for name in ("step", "total_steps"):
        if isinstance(status.get(name), int):
            columns[name] = min(status[name], LARGEST)
    columns["activity"] = {
        "phase": status.get("phase") or "",
        "done": status.get("phase_done"),
        "of": status.get("phase_total"),
    }
    return columns


def store_margins(training_round: TrainingRound, path: Path) -> None:
    """Each pair's reward margin after training, from pairs_scored.jsonl.

    One prepared UPDATE for all: `bulk_update` takes seconds for thousands of pairs, while
    which SQLite's other writers wait.
    """
    margins: list[tuple[float, int, int]] = []
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                margins.append((row["margin"], training_round.pk, int(row["id"])))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        logger.warning("%s cannot be read: %s", path.name, problem)
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {RoundPair._meta.db_table} SET final_margin = %s"
            " WHERE training_round_id = %s AND pair_id = %s",
            margins,
        )

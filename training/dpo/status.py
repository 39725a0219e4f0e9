"""status.json: where the run stands, for whoever watches the folder.

    {"state": "running", "phase": "training", "step": 12, "total_steps": 96,
     "eta_seconds": 31, "reason": null, "updated_at": "…Z", "pid": 4711}

`state` is running, stopped, done or failed; `phase` (loading, reading, reference,
measuring, evaluating, sft, training, scoring, saving, done) says more while it runs.
`step` and `total_steps` count optimizer steps, supervised ones (sft) included; in a phase
with other units (pairs) `phase_done` and `phase_total` do. `reason` is one sentence when
stopped or failed; `warnings` are objects {"code", "text"}, see `guardrails.py`.
"""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.dpo.files import write_json

MIN_INTERVAL_SECONDS = 0.5


def read_status(run_dir: Path) -> dict[str, Any]:
    """What status.json says; empty if there is none yet."""
    try:
        values = json.loads((run_dir / "status.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


class StatusFile:
    """Writes status.json atomically; frequent updates are thinned out.

    Of several processes only process 0's `writes`.
    """

    def __init__(self, run_dir: Path, writes: bool = True) -> None:
        self.path = run_dir / "status.json"
        self._writes = writes
        self.values: dict[str, Any] = {
            "state": "running",
            "phase": "loading",
            "step": 0,
            "total_steps": None,
            "eta_seconds": None,
            "reason": None,
            "phase_done": None,
            "phase_total": None,
            "warnings": [],
        }
        self._written_at = 0.0

    def phase(self, name: str, total: int | None = None, **values: Any) -> None:
        """Enter a phase; written at once."""
        self.values |= {"phase": name, "phase_done": None, "phase_total": total}
        self.values |= values
        self._write(durable=False)

    def progress(self, **values: Any) -> None:
        """Remember new figures; written unless the last write was just now."""
        self.values |= values
        if time.monotonic() - self._written_at >= MIN_INTERVAL_SECONDS:
            self._write(durable=False)

    def finish(self, state: str, reason: str | None = None) -> None:
        """Write the final state (stopped, done, failed), flushed to the disk.

        On a full disk it goes over the old text, whose block is there. Raises OSError.
        """
        self.values |= {"state": state, "reason": reason, "eta_seconds": None}
        if state == "done":
            self.values |= {"phase": "done", "phase_done": None, "phase_total": None}
        try:
            self._write(durable=True)
        except OSError:
            with open(self.path, "r+", encoding="utf-8") as file:
                json.dump(self.values, file)
                file.truncate()

    def _write(self, durable: bool) -> None:
        if not self._writes:
            return
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.values |= {
            "updated_at": stamp.replace("+00:00", "Z"),
            "pid": os.getpid(),
        }
        write_json(self.path, self.values, durable)
        self._written_at = time.monotonic()

"""metrics.jsonl: appended while training, trimmed at a resume so each step is there once.

Leaves out what the figures mean; see `metrics.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

from training.dpo.distributed import is_main
from training.dpo.files import write_text


class MetricsLog:
    """One JSON object a line; a reader may follow the file while it grows.

    Of several processes only process 0 writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int, source: Path | None = None) -> None:
        """Keep the lines of steps up to `step`, from `source` if given.

        Lines after the checkpoint, and one torn by a crash, are dropped: those steps
        are done again. `step` −1 empties the file.
        """
        if not is_main():
            return
        kept = []
        for line in self._lines(source or self.path):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.get("step", step + 1) <= step:
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def append(self, row: dict[str, Any]) -> None:
        """Add a step's line."""
        if not is_main():
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def sync(self) -> None:
        """Flush to the disk; done before each checkpoint, which counts on the lines."""
        if not is_main():
            return
        with open(self.path, "a", encoding="utf-8") as file:
            os.fsync(file.fileno())

    def _lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

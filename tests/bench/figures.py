"""One measured figure, its budget, and how figures are shown: JSON lines and a table.

Leaves out measuring. Ratios are ours over the rival's, taken side by side in one run;
absolute values mean little on a shared machine.
"""

import json
import os
import platform
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("figure", "value", "unit", "rival", "ratio", "budget", "met")


@dataclass(frozen=True)
class Budget:
    """A bound on a figure's ratio or on its value."""

    of: Literal["ratio", "value"]
    sign: Literal["≥", "≤"]
    bound: float

    def __str__(self) -> str:
        return f"{self.of} {self.sign} {self.bound:g}"

    def holds(self, number: float) -> bool:
        return number >= self.bound if self.sign == "≥" else number <= self.bound


@dataclass(frozen=True)
class Figure:
    """`rival_value` is in the same unit. `note` says under which conditions."""

    name: str
    value: float
    unit: str
    rival: str | None = None
    rival_value: float | None = None
    budget: Budget | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the rival's; None without a rival."""
        return self.value / self.rival_value if self.rival_value else None

    @property
    def met(self) -> bool | None:
        """None without a budget, or where its ratio could not be taken."""
        if self.budget is None:
            return None
        number = self.value if self.budget.of == "value" else self.ratio
        return None if number is None else self.budget.holds(number)


@dataclass(frozen=True)
class Setting:
    """Where and of what the figures were taken."""

    machine: str
    commit: str
    date: str


def as_object(figure: Figure, setting: Setting) -> dict[str, Any]:
    """The figure's JSON line."""
    return {
        "name": figure.name,
        "value": _rounded(figure.value),
        "unit": figure.unit,
        "rival": figure.rival,
        "rival_value": _rounded(figure.rival_value),
        "ratio": _rounded(figure.ratio),
        "budget": str(figure.budget) if figure.budget else None,
        "met": figure.met,
        "note": figure.note,
        "machine": setting.machine,
        "commit": setting.commit,
        "date": setting.date,
    }


def from_object(row: dict[str, Any]) -> Figure:
    """The figure of a JSON line, as exact as the line is."""
    budget = None
    if row["budget"]:
        of, sign, bound = row["budget"].split()
        budget = Budget(of, sign, float(bound))
    return Figure(
        row["name"],
        row["value"],
        row["unit"],
        row["rival"],
        row["rival_value"],
        budget,
        row["note"],
    )


def as_line(figure: Figure, setting: Setting) -> str:
    return json.dumps(as_object(figure, setting), ensure_ascii=False)


def table(figures: Iterable[Figure]) -> str:
    """All figures in aligned columns; a dash where there is nothing to say."""
    rows = [COLUMNS, *(_cells(figure) for figure in figures)]
    widths = [max(_width(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def markdown(figures: Iterable[Figure]) -> str:
    """The same in Markdown, with the notes, ready for docs/benchmarks.md."""
    heads = (*COLUMNS, "note")
    rows = [heads, ["---"] * len(heads)]
    for figure in figures:
        *cells, met = _cells(figure)
        met = f"**{met}**" if met == "NO" else met
        shown = ["" if cell == "-" else cell for cell in (*cells, met, figure.note)]
        rows.append(shown)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def setting() -> Setting:
    """This machine, this commit (`+` where files differ from it), today."""
    return Setting(
        machine(), _commit(), datetime.now(UTC).isoformat(timespec="seconds")
    )


def machine() -> str:
    """Cores, processor, memory and NVIDIA's GPUs, in words."""
    info = Path("/proc/cpuinfo").read_text("utf-8")
    named = [line for line in info.splitlines() if line.startswith("model name")]
    model = named[0].partition(":")[2].strip() if named else platform.machine()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpus = [
        _gpu(path) for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
    ]
    parts = [f"{os.cpu_count()} cores {model}", f"{round(pages / 2**30)} GiB"]
    return ", ".join([*parts, *sorted(gpus)])


def _gpu(path: Path) -> str:
    named = [line for line in path.read_text("utf-8").splitlines() if "Model:" in line]
    return named[0].partition(":")[2].strip() if named else "a GPU"


def load() -> str:
    """The machine's load now, to judge a figure by."""
    return f"load {os.getloadavg()[0]:.1f}"


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short", "HEAD") or "unknown"
    return head + ("+" if git("status", "--porcelain", "-uno") else "")


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio = "-" if figure.ratio is None else f"{figure.ratio:.2f}"
    met = {None: "-", True: "yes", False: "NO"}[figure.met]
    rival = "-"
    if figure.rival:
        rival = f"{_short(figure.rival_value)} {figure.rival}"
    return (
        figure.name,
        _short(figure.value),
        figure.unit,
        rival,
        ratio,
        str(figure.budget or "-"),
        met,
    )


def _short(number: float | None) -> str:
    return (
        "-"
        if number is None
        else f"{number:.3g}"
        if abs(number) < 1000
        else f"{number:.0f}"
    )


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.5g}")


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell + " " * (width - _width(cell))
        for cell, width in zip(row, widths, strict=True)
    ]

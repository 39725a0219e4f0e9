"""What can be asked of the bench on the command line."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.material import PROMPTS


@dataclass(frozen=True)
class Options:
    """`folder` is scratch space that is removed afterwards; None: the part's own."""

    names: list[str]
    folder: Path
    quick: bool = False
    repeats: int = 1
    pairs: int | None = None
    shapes: Sequence[str] = ("short", "chat")
    judgments: int | None = None
    url: str = ""

    @staticmethod
    def say(line: str) -> None:
        """Progress goes to stderr: stdout is for figures."""
        print(line, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str], known: Sequence[str], folder: Path) -> Options:
    """Raises SystemExit with usage for what cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure; JSON lines and a table on stdout, progress on stderr.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(known)} (all of them)"
    )
    parser.add_argument("--quick", action="store_true", help="small and inexact")
    parser.add_argument(
        "--repeats", type=int, default=1, help="turns of each side; the best counts"
    )
    parser.add_argument("--pairs", type=int, help="trainer: pairs a side")
    parser.add_argument(
        "--shapes", nargs="+", choices=PROMPTS, help="trainer: shapes (short chat)"
    )
    parser.add_argument("--judgments", type=int, help="judging: judgments a turn")
    parser.add_argument("--url", default="", help="sampling: a vLLM that is up")
    found = parser.parse_args(arguments)
    for name in found.names:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    for name in ("repeats", "pairs", "judgments"):
        if getattr(found, name) is not None and getattr(found, name) < 1:
            parser.error(f"--{name} must be at least 1")
    shapes = found.shapes or (["short"] if found.quick else ["short", "chat"])
    return Options(
        names=found.names or list(known),
        folder=folder,
        quick=found.quick,
        repeats=found.repeats,
        pairs=found.pairs,
        shapes=shapes,
        judgments=found.judgments,
        url=found.url,
    )

"""What can be asked of the bench on the command line."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Figure, from_object
from tests.bench.material import MODELS, SHAPES

DTYPES = ("fp32", "bf16")
NO_SAVINGS = "none"


@dataclass(frozen=True)
class Options:
    """`folder` is scratch space that is removed afterwards.

    `kept`: figures that an earlier run left in `keep`, of the same commit and machine.
    """

    names: list[str]
    folder: Path
    quick: bool = False
    markdown: bool = False
    repeats: int = 1
    pairs: int | None = None
    shapes: Sequence[str] = ("short",)
    dtypes: Sequence[str] = DTYPES
    models: Sequence[str] = ("small",)
    device: str = "cpu"
    batch: int = 4
    savings: Sequence[str] = ()
    judgments: int | None = None
    comparisons: int | None = None
    keep: Path | None = None
    kept: list[Figure] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether `kept` holds figures of `name`."""
        return any(figure.name.startswith(f"{name}/") for figure in self.kept)

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
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="append every figure's JSON line to FILE as it comes, and leave out parts"
        " that FILE already holds of this commit and machine",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="the table at the end in Markdown"
    )
    trainer = parser.add_argument_group("trainer")
    trainer.add_argument("--pairs", type=int, help="pairs a side")
    trainer.add_argument("--shapes", nargs="+", choices=SHAPES, help="(all of them)")
    trainer.add_argument("--dtype", nargs="+", choices=DTYPES, help="(both; GPU: bf16)")
    trainer.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu",
        help="(cuda where there is one)",
    )
    trainer.add_argument(
        "--model", nargs="+", choices=MODELS, help="(small; on a GPU 0.5b 7b)"
    )
    trainer.add_argument(
        "--batch", type=int, help="pairs an optimizer step (4; on a GPU 16)"
    )
    trainer.add_argument(
        "--savings",
        nargs="+",
        choices=(*SHAPES, NO_SAVINGS),
        help="shapes on which each saving is switched off and on (chat, in fp32)",
    )
    parser.add_argument("--judgments", type=int, help="judging: judgments a turn")
    parser.add_argument(
        "--comparisons", type=int, help="scale: in the large project (1,000,000)"
    )
    found = parser.parse_args(arguments)
    for name in found.names:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    for name in ("repeats", "pairs", "judgments", "comparisons", "batch"):
        if getattr(found, name) is not None and getattr(found, name) < 1:
            parser.error(f"--{name} must be at least 1")
    on_gpu = found.device == "cuda"
    shapes = found.shapes or (["short"] if found.quick else list(SHAPES))
    dtypes = ["bf16"] if on_gpu else DTYPES[:1] if found.quick else DTYPES
    savings = found.savings or ([] if found.quick else ["chat"])
    return Options(
        names=found.names or list(known),
        folder=folder,
        quick=found.quick,
        markdown=found.markdown,
        repeats=found.repeats,
        pairs=found.pairs,
        shapes=shapes,
        dtypes=found.dtype or dtypes,
        models=found.model or (["0.5b", "7b"] if on_gpu else ["small"]),
        device=found.device,
        batch=found.batch or (16 if on_gpu else 4),
        savings=[shape for shape in savings if shape in shapes],
        judgments=found.judgments,
        comparisons=found.comparisons,
        keep=found.keep,
    )


def kept_figures(path: Path, machine: str, commit: str) -> list[Figure]:
    """Figures in `path` of this commit and machine; a torn last line is left out."""
    if not path.exists():
        return []
    figures = []
    for line in path.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if (row["machine"], row["commit"]) == (machine, commit):
            figures.append(from_object(row))
    return figures

"""What is measured: a model, a dtype and a shape, with the pairs that both sides get.

Leaves out measuring. What each side has to do is counted by `operations.py`.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.bench import operations
from tests.bench.material import MODELS, SHAPES, pairs_of
from tests.bench.options import Options

Row = dict[str, Any]

MICRO_BATCHES = (1, 2, 4, 8)
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
MIXED = ("short", "chat", "long")
"""Shapes with a memory budget, and those on which TRL is also run as it comes."""

QUICK_PAIRS = 8


@dataclass(frozen=True)
class Cell:
    """One model, dtype and shape, and the pairs that both sides train on."""

    model: str
    dtype: str
    shape: str
    device: str
    batch: int
    rows: list[Row] = field(repr=False)

    @property
    def name(self) -> str:
        model = [] if self.model == "small" else [self.model]
        return "/".join(["trainer", *model, self.dtype, self.shape])

    @property
    def head_everywhere(self) -> bool:
        """TRL's head takes every position where there is no Triton."""
        return self.device == "cpu"

    @property
    def micro_batches(self) -> list[int]:
        """Those that an optimizer batch is made of."""
        return [size for size in MICRO_BATCHES if self.batch % size == 0]

    @property
    def longest(self) -> list[Row]:
        """As many as an optimizer step takes: they decide how much memory TRL needs."""
        return sorted(self.rows, key=_tokens)[-self.batch :]

    @property
    def warming(self) -> list[Row]:
        """On a GPU a whole step, since kernels are made for its sizes."""
        by_length = sorted(self.rows, key=_tokens)
        return self.rows[: self.batch] if self.device == "cuda" else by_length[:1]

    def theirs(self, rows: list[Row], micro_batch: int) -> float:
        """Operations of TRL, tuned."""
        model = MODELS[self.model]
        return operations.tuned(model, rows, micro_batch, self.head_everywhere).total

    def mine(self, rows: list[Row]) -> float:
        return operations.ours(MODELS[self.model], rows, self.batch).total


def cells_of(options: Options) -> list[Cell]:
    """Models by dtypes by shapes, as asked for."""
    found = []
    for model in options.models:
        for dtype in options.dtypes:
            for shape in options.shapes:
                least = SHAPES[shape].pairs if options.device == "cpu" else 64
                count = options.pairs or (QUICK_PAIRS if options.quick else least)
                # TRL weighs the pairs of a smaller last step otherwise.
                count = -(-count // options.batch) * options.batch
                rows = pairs_of(shape, count, MODELS[model].vocabulary)
                found.append(
                    Cell(model, dtype, shape, options.device, options.batch, rows)
                )
    return found


def _tokens(row: Row) -> int:
    """Of the longer of the two sequences."""
    return max(len(ids) for ids in operations.sequences(row))

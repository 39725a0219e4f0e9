"""DPO with LoRA: ours beside TRL 1.16 as it comes and tuned, shape by shape.

On a CPU a model of 8 layers × 512 in float32 and bfloat16; on a GPU bfloat16 and models
shaped like a 0.5B and a 7B one. Both sides do the same pairs in the same batches once,
reference pass included, in turns. `trainer_sides.py` runs them, `operations.py` counts
what they have to do, `trainer_figures.py` makes the figures. Not timed: imports,
loading, tokenising, warming up, and what is written at the end.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from itertools import groupby
from typing import Any

from tests.bench import operations
from tests.bench.cells import DTYPES, MIXED, Cell, Row, cells_of
from tests.bench.figures import Figure, load
from tests.bench.material import MODELS
from tests.bench.options import Options
from tests.bench.pace import Pace
from tests.bench.processes import BenchError
from tests.bench.trainer_figures import (
    Rates,
    cell_figures,
    saving_figures,
    saving_settings,
)
from tests.bench.trainer_sides import Sides, Turn, write_model
from training.dpo.config import TrainingConfig

SLOWER = 1.1
"""A micro-batch slower than the last by this factor ends the search: on a CPU padding
and memory only grow with it."""

FRUGAL = {"side_by_side": False, "checkpointing": True}
"""Our setting where memory counts more than time, beside TRL's most frugal one."""

RATE_SECONDS = 0.2
"""How long each matrix product is tried, each way."""


def measure(options: Options) -> Iterator[Figure]:
    """Cell by cell; what `options.kept` already has is not measured again.

    Raises BenchError at the end if a cell could not be measured.
    """
    cells = [cell for cell in cells_of(options) if not options.has(cell.name)]
    saved = [
        cell
        for cell in cells
        if cell.shape in options.savings
        and (cell.model, cell.dtype) == (options.models[0], options.dtypes[0])
    ]
    pace = Pace(options.say)
    for cell in cells:
        _plan(options, cell, cell in saved, pace)
    failed = []
    for (model, dtype), some in groupby(cells, lambda cell: (cell.model, cell.dtype)):
        _provide_model(options, model)
        sides = Sides(
            options.folder, model, DTYPES[dtype], options.device, options.batch
        )
        with closing(sides):
            for cell in some:
                try:
                    yield from _cell(options, cell, sides, pace)
                    if cell in saved:
                        yield from _savings(options, cell, sides, pace)
                except BenchError as error:
                    options.say(f"{cell.name} could not be measured: {error}")
                    failed.append(cell.name)
    if failed:
        raise BenchError(f"no figures of {', '.join(failed)}")


def _provide_model(options: Options, model: str) -> None:
    if not (options.folder / f"model-{model}").exists():
        options.say(f"trainer: making the model {model}, with random weights")
        write_model(options.folder, model, options.device)


def _plan(options: Options, cell: Cell, with_savings: bool, pace: Pace) -> None:
    """Tell how much each side will have to do, roughly."""
    first = cell.rows[: cell.batch]
    theirs = sum(cell.theirs(first, size) for size in cell.micro_batches[:2])
    theirs += cell.theirs(cell.rows, 1) * options.repeats
    if cell.dtype == "bf16":
        theirs += cell.theirs(first, 1)
    mine = cell.mine(cell.rows) * options.repeats
    if cell.shape in MIXED:
        theirs += 2 * cell.theirs(cell.longest, 1)
        theirs += cell.theirs(first, cell.micro_batches[-1])
        # For memory; and in the frugal setting, which is slower, timed and for memory.
        mine += 4 * cell.mine(cell.rows)
    if with_savings:
        settings = len(saving_settings(saving_defaults()))
        # Without savings ours takes some twice as long.
        mine += (
            1.5 * settings * cell.mine(cell.rows[: 2 * cell.batch]) * options.repeats
        )
    pace.plan(f"TRL {cell.dtype}", theirs)
    pace.plan(f"ours {cell.dtype}", mine)


class Timed:
    """The two sides on one cell, each turn told before it starts."""

    def __init__(self, options: Options, cell: Cell, sides: Sides, pace: Pace) -> None:
        self.options, self.cell, self.sides, self.pace = options, cell, sides, pace

    def ours(self, rows: list[Row], told: str, **how: Any) -> Turn:
        with self.pace.told(
            f"{self.cell.name}: ours, {told}",
            f"ours {self.cell.dtype}",
            self.cell.mine(rows),
        ):
            return self.sides.ours(rows, **how)

    def trl(self, rows: list[Row], size: int, told: str, **how: Any) -> Turn:
        with self.pace.told(
            f"{self.cell.name}: TRL, micro-batch {size}, {told}",
            f"TRL {self.cell.dtype}",
            self.cell.theirs(rows, size),
        ):
            return self.sides.trl(rows, size, **how)

    def trl_or_none(
        self, rows: list[Row], size: int, told: str, **how: Any
    ) -> Turn | None:
        """None where it cannot: too large for the machine, as a rule. That is told, and
        TRL, which has to start again, warmed up."""
        try:
            return self.trl(rows, size, told, **how)
        except BenchError as error:
            done = ", ".join(f"{name} {value}" for name, value in how.items())
            self.options.say(
                f"{self.cell.name}: TRL cannot do micro-batch {size}, {told}"
                f" {f'({done})' if done else ''}: {error}"
            )
            self.sides.trl(self.cell.warming, 1)
            return None


def _cell(options: Options, cell: Cell, sides: Sides, pace: Pace) -> Iterator[Figure]:
    busy = load()
    timed = Timed(options, cell, sides, pace)
    kind, why = sides.ours(cell.warming).forward
    if kind == "rows":
        options.say(f"{cell.name}: ours takes plain rows: {why}")
    sides.trl(cell.warming, 1)
    rates = _rates(cell, sides)
    tried, how = tuned(options, cell, timed)
    mine: list[Turn] = []
    theirs: list[Turn] = []
    for turn in range(options.repeats):
        told = f"turn {turn + 1} of {options.repeats}"
        # Who begins changes, so that neither always has the cooler machine.
        if turn % 2:
            theirs.append(timed.trl(cell.rows, told=told, **how))
            mine.append(timed.ours(cell.rows, told))
        else:
            mine.append(timed.ours(cell.rows, told))
            theirs.append(timed.trl(cell.rows, told=told, **how))
    comes, frugal, memory = None, None, {}
    if cell.shape in MIXED:
        first, size = cell.rows[: cell.batch], cell.micro_batches[-1]
        comes = timed.trl_or_none(first, size, "as it comes", default=True)
        frugal = timed.ours(cell.rows, "frugal", savings=FRUGAL)
        memory = memory_of(cell, timed)
    yield from cell_figures(
        cell.name,
        shape=cell.shape,
        model=cell.model,
        device=cell.device,
        exact=cell.dtype == "fp32",
        mine=mine,
        theirs=theirs,
        tried=tried,
        default=comes,
        frugal=frugal,
        memory=memory,
        ceiling=cell.theirs(cell.rows, how["size"]) / cell.mine(cell.rows),
        operations=cell.mine(cell.rows),
        rates=rates,
        note=f"{len(cell.rows)} pairs as {kind}, best of {len(mine)}; {busy} before,"
        f" {load()} after",
    )


def tuned(options: Options, cell: Cell, timed: Timed) -> tuple[Turn, dict[str, Any]]:
    """TRL's quickest setting, from the first step's pairs, and that turn."""
    first = cell.rows[: cell.batch]
    tried: list[tuple[Turn, dict[str, Any]]] = []

    def attempt(how: dict[str, Any]) -> None:
        if (turn := timed.trl_or_none(first, told="trying", **how)) is not None:
            tried.append((turn, how))

    for size in cell.micro_batches:
        attempt({"size": size})
        seconds = [turn.seconds for turn, _ in tried[-2:]]
        if len(seconds) == 2 and seconds[1] > SLOWER * seconds[0]:
            break
    if not tried:
        raise BenchError("TRL did not train with any micro-batch")
    best = min(tried, key=lambda one: one[0].seconds)[1]
    if cell.dtype == "bf16" and cell.device == "cpu":
        # Autocast over float32 weights may be as quick as over bfloat16 ones.
        attempt(best | {"weights": "float32"})
    if cell.device == "cuda" and find_spec("flash_attn") is not None:
        # Torch's own comes with every installation; `padding_free` is off in TRL 1.16.
        attempt(best | {"attention": "flash_attention_2"})
    return min(tried, key=lambda one: one[0].seconds)


def _rates(cell: Cell, sides: Sides) -> Rates:
    """The machine's rates for our products, the quickest of each, either way."""
    model = MODELS[cell.model]
    parts = operations.products(model, cell.rows, cell.batch)
    found = sides.rates(list(parts), RATE_SECONDS)
    return Rates(parts=list(parts.values()), ways=found)


def memory_of(cell: Cell, timed: Timed) -> dict[str, Turn]:
    """Each in a process of its own: how much memory does it take in all?

    TRL gets the longest pairs only; no other pair decides. Ours gets all of them.
    """
    fresh = cell.device == "cpu"
    found = {
        "ours": timed.ours(cell.rows, "memory", fresh=fresh),
        "ours frugal": timed.ours(
            cell.rows, "memory, frugal", savings=FRUGAL, fresh=fresh
        ),
    }
    frugal = timed.trl_or_none(
        cell.longest, 1, "memory, checkpointing", checkpointing=True, fresh=fresh
    )
    four = None
    if 4 in cell.micro_batches:
        four = timed.trl_or_none(cell.longest, 4, "memory", fresh=fresh)
    rivals = {"frugal": frugal, "four": four}
    return found | {name: turn for name, turn in rivals.items() if turn is not None}


def _savings(
    options: Options, cell: Cell, sides: Sides, pace: Pace
) -> Iterator[Figure]:
    """Two steps with all savings off, each one alone, each one left out, all on."""
    timed = Timed(options, cell, sides, pace)
    settings = saving_settings(saving_defaults())
    turns: dict[str, list[Turn]] = {told: [] for told in settings}
    for _turn in range(options.repeats):
        for told, chosen in settings.items():
            turn = timed.ours(cell.rows[: 2 * cell.batch], told, savings=chosen)
            turns[told].append(turn)
    yield from saving_figures(f"{cell.name}/savings", turns)


def saving_defaults() -> dict[str, Any]:
    """config.json's `savings` as they come; empty where the trainer has no such key."""
    known = TrainingConfig.__dataclass_fields__.get("savings")
    if known is None or not callable(known.default_factory):
        return {}
    return asdict(known.default_factory())

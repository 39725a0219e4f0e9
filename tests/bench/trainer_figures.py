"""The trainer's figures and budgets, from turns already taken. Measures nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.figures import Budget, Figure
from tests.bench.trainer_sides import Turn

FASTER = {"short": 2.0, "chat": 4.0, "long": 4.0}
"""How many times TRL's pairs a second, mixed lengths; other shapes: never slower."""

OF_CEILING = 0.85
OF_MATMUL = {"small": 0.70, "0.5b": 0.30, "7b": 0.45}
MEMORY_OF_FRUGAL, MEMORY_OF_FOUR = 0.5, 0.2
SAME_WORK = 1e-4
"""Largest difference of a step's loss in float32; the losses themselves are near ln 2."""


@dataclass(frozen=True)
class Rates:
    """Operations a second of matrix products, each of which is a share (`parts`) of ours.

    `ways`: {"linear": …, "onednn": …}, as long as `parts`; None where it can't be.
    """

    parts: Sequence[float]
    ways: Mapping[str, Sequence[float | None]]

    def of(self, way: str) -> float | None:
        """Rate of all products in their shares by one way; None if one can't be."""
        seconds = 0.0
        for part, rate in zip(self.parts, self.ways[way], strict=True):
            if not rate:
                return None
            seconds += part / rate
        return 1 / seconds

    @property
    def best(self) -> float:
        """Each product by its quickest way."""
        columns = zip(*self.ways.values(), strict=True)
        quickest = [max(rate for rate in column if rate) for column in columns]
        return 1 / sum(p / r for p, r in zip(self.parts, quickest, strict=True))

    def __str__(self) -> str:
        told = [f"{way} {_giga(self.of(way))}" for way in self.ways]
        return f"{', '.join(told)}, quickest {_giga(self.best)} GFLOP/s"


def cell_figures(
    name: str,
    *,
    shape: str,
    model: str,
    device: str,
    exact: bool,
    mine: Sequence[Turn],
    theirs: Sequence[Turn],
    tried: Turn,
    default: Turn | None,
    frugal: Turn | None,
    memory: Mapping[str, Turn],
    ceiling: float,
    operations: float,
    rates: Rates,
    note: str,
) -> Iterator[Figure]:
    """The quickest turn of each side counts.

    `tried` and `default` are TRL's best micro-batch and TRL as it comes on the same few
    pairs (None: not run), `frugal` ours where memory counts most. `operations`: ours; `ceiling`: TRL's operations over ours. `exact`: the sides
    round alike, so their losses must agree.
    """
    quick, rival = min(mine, key=_seconds), min(theirs, key=_seconds)
    faster = Budget("ratio", "≥", FASTER.get(shape, 1.0) if device == "cpu" else 1.0)
    speed = Figure(
        f"{name}/speed",
        quick.pairs_per_second,
        "pairs/s",
        rival.name,
        rival.pairs_per_second,
        faster,
        note,
    )
    yield speed
    assert speed.ratio is not None
    if default is not None:
        yield Figure(
            f"{name}/speed/default",
            quick.pairs_per_second,
            "pairs/s",
            default.name,
            rival.pairs_per_second * tried.seconds / default.seconds,
            Budget("ratio", "≥", 1.0),
            f"TRL's scaled from the first {default.pairs} pairs",
        )
    yield Figure(
        f"{name}/processor",
        min(turn.cpu for turn in mine) / quick.pairs,
        "cpu s/pair",
        rival.name,
        min(turn.cpu for turn in theirs) / rival.pairs,
        note=f"cores busy: ours {_cores(quick)}, TRL {_cores(rival)}",
    )
    yield Figure(
        f"{name}/ceiling",
        speed.ratio / ceiling,
        f"of {ceiling:.2f}",
        budget=Budget("value", "≥", OF_CEILING),
        note="speed ratio over the ratio of operations",
    )
    yield Figure(
        f"{name}/matmul",
        operations / quick.seconds / rates.best,
        f"of {_giga(rates.best)} GFLOP/s",
        budget=Budget("value", "≥", OF_MATMUL[model]) if model in OF_MATMUL else None,
        note=str(rates),
    )
    yield _same_work(name, quick, rival, exact)
    yield from _memory_figures(name, device, memory, "ours")
    if frugal is not None:
        yield Figure(
            f"{name}/frugal/speed",
            frugal.pairs_per_second,
            "pairs/s",
            rival.name,
            rival.pairs_per_second,
            faster,
            "one pass at a time, checkpointing",
        )
        yield from _memory_figures(f"{name}/frugal", device, memory, "ours frugal")


def _same_work(name: str, ours: Turn, theirs: Turn, exact: bool) -> Figure:
    """A bench that compares different work would be worthless."""
    loss = largest_difference(ours, theirs, "loss")
    logps = largest_difference(ours, theirs, "logps/chosen", relative=True)
    return Figure(
        f"{name}/same-work",
        loss,
        "of a step's loss",
        budget=Budget("value", "≤", SAME_WORK) if exact else None,
        note=f"largest differences over {len(ours.steps)} steps; logps/chosen {logps:.1e} relative",
    )


def largest_difference(
    ours: Turn, theirs: Turn, key: str, relative: bool = False
) -> float:
    """Over all steps; infinite where one side took other steps than the other."""
    left, right = ([step[key] for step in turn.steps] for turn in (ours, theirs))
    if len(left) != len(right) or not left:
        return float("inf")
    return max(
        abs(a - b) / (abs(b) if relative else 1.0)
        for a, b in zip(left, right, strict=True)
    )


def _memory_figures(
    name: str, device: str, memory: Mapping[str, Turn], ours: str
) -> Iterator[Figure]:
    """`ours`: which of our turns in `memory`."""
    on_cpu = device == "cpu"
    told = "whole process, interpreter, libraries and weights included"
    for rival, what, bound in (
        ("frugal", "memory", MEMORY_OF_FRUGAL),
        ("four", "memory/4", MEMORY_OF_FOUR),
    ):
        if rival not in memory:
            continue
        mine, theirs = memory[ours].peak_bytes, memory[rival].peak_bytes
        assert mine is not None and theirs is not None
        yield Figure(
            f"{name}/{what}",
            mine / 2**20,
            "MiB",
            memory[rival].name,
            theirs / 2**20,
            Budget("ratio", "≤", bound) if on_cpu else None,
            told if on_cpu else "of the accelerator",
        )


NEEDS = {
    "share_prefixes": ["pack"],
    "split_attention": ["pack"],
    "fused_layers": ["pack", "split_attention"],
    "skip_unscored": ["pack", "split_attention", "fused_layers"],
    "side_by_side": ["pack", "split_attention", "fused_layers"],
}
"""Savings that do nothing without others."""


def saving_settings(defaults: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """{what: the `savings` to train with}, from those of the trainer as they come.

    Only those that are on as they come are switched: checkpointing trades time for
    memory. "only X" has what X needs as well.
    """
    names = [name for name, value in defaults.items() if value is True]
    others = dict.fromkeys((n for n in defaults if n not in names), False)
    if not names:
        return {}
    none, every = (others | dict.fromkeys(names, on) for on in (False, True))
    settings = {"none": none}
    for name in names:
        wanted = [name, *NEEDS.get(name, [])]
        settings[f"only {name}"] = none | dict.fromkeys(wanted, True)
    for name in names:
        settings[f"all but {name}"] = every | {name: False}
    settings["all"] = every
    for name in others:
        settings[f"all with {name}"] = every | {name: True}
    return settings


def saving_figures(name: str, turns: Mapping[str, Sequence[Turn]]) -> Iterator[Figure]:
    """Our pairs a second with savings on and off, each beside none or all of them.

    `turns`: {"none": …, "only X": …, "all but X": …, "all": …, "all with Y": …}.
    """
    best = {told: min(some, key=_seconds) for told, some in turns.items()}
    for told, turn in best.items():
        beside = "all" if told.startswith("all ") else "none"
        if told == "none":
            continue
        yield Figure(
            f"{name}/{told.replace(' ', '-')}",
            turn.pairs_per_second,
            "pairs/s",
            f"ours, {beside}",
            best[beside].pairs_per_second,
            note=f"loss differs by {largest_difference(turn, best['none'], 'loss'):.1e} at most",
        )


def _seconds(turn: Turn) -> float:
    return turn.seconds


def _cores(turn: Turn) -> str:
    """Processor seconds a second: below the cores there are, others were at work."""
    return f"{turn.cpu / turn.seconds:.2f}"


def _giga(rate: float | None) -> str:
    return "-" if rate is None else f"{rate / 1e9:.0f}"

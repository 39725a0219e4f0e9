"""How far annotators agree beyond chance: Krippendorff's alpha, Cohen's and Fleiss' kappa.

Pure: counts in, figures out, each with a 95 % interval over comparisons, the units that
could have turned out otherwise. Verdicts are labels without an order. Leaves out where
the counts come from (`quality.py`), weights between labels, and who is right.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from annotation.shares import wilson

LEAST_UNITS = 10
"""Below, no interval: what chance would give is itself a guess from so few."""

Labels = tuple[int, ...]
"""Of one comparison: how many annotators gave each label."""

Cell = tuple[int, int]
"""The labels that two annotators gave one comparison, by number."""


@dataclass(frozen=True)
class Agreement:
    """`value`: 1 for full agreement, 0 for that of chance; None where chance alone would
    agree (one label only) or nothing was judged twice. `low`, `high`: 95 % interval, None
    where `value` is, or below LEAST_UNITS. `units`: comparisons it rests on."""

    value: float | None
    low: float | None
    high: float | None
    units: int


def krippendorff_alpha(comparisons: Mapping[Labels, int]) -> Agreement:
    """Nominal alpha of {labels of a comparison: how many comparisons have them}.

    Any number of annotators, not all of whom judged everything; comparisons judged once
    count for nothing. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011),
    section C, in the form (A_o − A_e) / (1 − A_e).
    """
    return _agreement(
        {labels: n for labels, n in comparisons.items() if sum(labels) > 1}, _alpha
    )


def fleiss_kappa(comparisons: Mapping[Labels, int]) -> Agreement:
    """Fleiss' kappa (Psychological Bulletin 76, 1971) of the same.

    It wants as many annotators everywhere: of comparisons judged by different numbers
    those of the commonest number count, of equally common ones the largest.
    """
    sizes = Counter[int]()
    for labels, count in comparisons.items():
        sizes[sum(labels)] += count if sum(labels) > 1 else 0
    size = max(sizes, key=lambda size: (sizes[size], size), default=0)
    alike = {labels: n for labels, n in comparisons.items() if sum(labels) == size > 1}
    return _agreement(alike, _fleiss)


def cohen_kappa(cells: Mapping[Cell, int], labels: int) -> Agreement:
    """Cohen's kappa (Educational and Psychological Measurement 20, 1960) of two
    annotators: {(label of one, label of the other): comparisons}; `labels`: how many
    there are."""
    marks = {}
    for (one, other), count in cells.items():
        # The first and the second annotator's label, each as a mark among all labels.
        mark = [0] * (2 * labels)
        mark[one], mark[labels + other] = 1, 1
        marks[tuple(mark)] = count
    return _agreement(marks, _cohen)


Parts = Callable[[Any, Any], tuple[Any, Any, float]]
"""(kinds of units (K, C), how many there are of each (K,)) → of each kind the agreement
observed in a unit (K,) and the unit's weight (K,); and the agreement that chance gives."""


def _agreement(units: Mapping[tuple[int, ...], int], parts: Parts) -> Agreement:
    """(A_o − A_e) / (1 − A_e). A_o is a mean over units: its interval is Wilson's for as
    many judgments right or wrong as would spread like them, with A_e taken as known."""
    kinds = sorted(kind for kind, count in units.items() if count)
    if not kinds:
        return Agreement(None, None, None, 0)
    counts = np.array([units[kind] for kind in kinds], dtype=np.float64)
    total = int(counts.sum())
    alike, weights, expected = parts(np.array(kinds, dtype=np.float64), counts)
    if expected >= 1:
        return Agreement(None, None, None, total)

    def beyond_chance(observed: float) -> float:
        return max(-1.0, (observed - expected) / (1 - expected))

    sums = counts @ weights
    observed = float(counts @ (weights * alike) / sums)
    value = beyond_chance(observed)
    if total < LEAST_UNITS:
        return Agreement(value, None, None, total)
    if alike.min() < alike.max():
        spread = counts @ (weights * (alike - observed)) ** 2
        n = observed * (1 - observed) * sums**2 / spread
    else:
        # No spread was seen: as many as there are units (Kish's number).
        n = sums**2 / (counts @ weights**2)
    low, high = (beyond_chance(end) for end in wilson(observed, n))
    return Agreement(value, low, high, total)


def _alpha(table: Any, counts: Any) -> tuple[Any, Any, float]:
    judges = table.sum(axis=1)
    alike = (table * (table - 1)).sum(axis=1) / (judges * (judges - 1))
    values, by_label = counts @ judges, counts @ table
    expected = (by_label * (by_label - 1)).sum() / (values * (values - 1))
    return alike, judges, float(expected)


def _fleiss(table: Any, counts: Any) -> tuple[Any, Any, float]:
    judges = table.sum(axis=1)
    alike = (table * (table - 1)).sum(axis=1) / (judges * (judges - 1))
    shares = counts @ table / (counts @ judges)
    return alike, np.ones_like(judges), float((shares**2).sum())


def _cohen(table: Any, counts: Any) -> tuple[Any, Any, float]:
    one, other = np.split(table, 2, axis=1)
    ones, others = counts @ one / counts.sum(), counts @ other / counts.sum()
    return (one * other).sum(axis=1), np.ones(len(table)), float(ones @ others)

"""How far annotators agree beyond chance: Krippendorff's alpha, Cohen's and Fleiss' kappa.

Pure: counts in, figures out, each with a 95 % interval by resampling comparisons, the
units that could have turned out otherwise. Verdicts are labels without an order. Leaves
out where the counts come from (`quality.py`), weights between labels, and who is right.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000

Labels = tuple[int, ...]
"""Of one comparison: how many annotators gave each label."""

Cell = tuple[int, int]
"""The labels that two annotators gave one comparison, by number."""


@dataclass(frozen=True)
class Agreement:
    """`value`: 1 for full agreement, 0 for that of chance; None where chance alone would
    agree (one label only) or nothing was judged twice. `low`, `high`: 95 % interval, None
    below two units. `units`: comparisons it rests on."""

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


Statistic = Callable[[Any, Any], Any]
"""(kinds of units (K, C), how often each counts (R, K)) → R values, NaN where undefined."""


def _agreement(units: Mapping[tuple[int, ...], int], statistic: Statistic) -> Agreement:
    kinds = sorted(kind for kind, count in units.items() if count)
    total = sum(units[kind] for kind in kinds)
    if not total:
        return Agreement(None, None, None, 0)
    counts = np.array([units[kind] for kind in kinds], dtype=np.int64)
    table = np.array(kinds, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(table, counts[None].astype(np.float64))[0])
        # Always the same draws: a page that is read twice says the same.
        draws = np.random.default_rng(0).multinomial(total, counts / total, RESAMPLES)
        values = statistic(table, draws.astype(np.float64))
    values = values[np.isfinite(values)]
    low = high = None
    if np.isfinite(value) and total > 1 and len(values):
        low, high = (float(end) for end in np.quantile(values, [0.025, 0.975]))
    return Agreement(value if np.isfinite(value) else None, low, high, total)


def _alpha(table: Any, counts: Any) -> Any:
    judges = table.sum(axis=1)
    alike = (table * (table - 1)).sum(axis=1) / (judges - 1)
    values = counts @ judges
    observed = counts @ alike / values
    by_label = counts @ table
    expected = (by_label * (by_label - 1)).sum(axis=1) / (values * (values - 1))
    return (observed - expected) / (1 - expected)


def _fleiss(table: Any, counts: Any) -> Any:
    judges = table.sum(axis=1)[0]
    alike = (table * (table - 1)).sum(axis=1) / (judges * (judges - 1))
    units = counts.sum(axis=1)
    shares = counts @ table / (units * judges)[:, None]
    expected = (shares**2).sum(axis=1)
    return (counts @ alike / units - expected) / (1 - expected)


def _cohen(table: Any, counts: Any) -> Any:
    one, other = np.split(table, 2, axis=1)
    units = counts.sum(axis=1)
    observed = counts @ (one * other).sum(axis=1) / units
    ones, others = counts @ one / units[:, None], counts @ other / units[:, None]
    expected = (ones * others).sum(axis=1)
    return (observed - expected) / (1 - expected)

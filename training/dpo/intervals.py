"""How sure a mean over held-out pairs is: intervals from resampling prompts.

Pairs of one prompt resemble each other, so whole prompts are drawn with replacement,
each with all its pairs (cluster bootstrap, percentile form; Efron and Tibshirani, An
Introduction to the Bootstrap, ch. 8 and 13). The draws depend on a fixed seed and the
number of prompts alone: figures taken on the same prompts share their draws, so a
difference pair by pair (`difference` of two runs, or of end and start) gets the paired
interval. Leaves out what the figures mean; see `evaluate.py`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.dpo.data import Pair

Floats = NDArray[np.float64]

LEVEL = 0.95
DRAWS = 2000
"""Leaves an end of a 95 % interval uncertain by some 5 % of the interval's width."""

SEED = 20260101
NUMBERS_AT_ONCE = 1 << 22
"""Draws are made in blocks of so many numbers (32 MiB)."""


@dataclass(frozen=True)
class Interval:
    """A mean and where LEVEL of the resampled means lie; ends None if one prompt only."""

    value: float
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def clusters_of(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Equal keys get equal numbers, counted from 0 in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(k, len(numbers)) for k in keys], np.int64)


def prompt_clusters(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """The number of each pair's prompt; pairs with equal prompt tokens share it."""
    return clusters_of([tuple(pair.prompt_ids) for pair in pairs])


def resampled_means(
    values: Floats,
    clusters: NDArray[np.int64],
    weights: Floats | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Floats:
    """Σ weight·value / Σ weight over prompts drawn with replacement.

    values (pairs, figures), clusters (pairs,), weights (pairs,) → (draws, figures).
    """
    count = int(clusters.max()) + 1
    weights = np.ones(len(clusters)) if weights is None else weights
    columns = np.column_stack([values * weights[:, None], weights])
    sums = np.stack([np.bincount(clusters, column, count) for column in columns.T], 1)
    generator = np.random.default_rng(seed)
    block = max(1, NUMBERS_AT_ONCE // count)
    means = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = generator.integers(count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count)
        totals = times.reshape(size, count) @ sums
        means.append(totals[:, :-1] / totals[:, -1:])
    return np.concatenate(means)


def mean_intervals(
    figures: Mapping[str, Sequence[float]],
    clusters: NDArray[np.int64],
    weights: Sequence[float] | None = None,
) -> dict[str, Interval]:
    """The mean of each figure, given per pair, with its interval over prompts.

    Raises ValueError for a value that is not finite.
    """
    values = np.array(list(figures.values()), np.float64).T
    if not np.isfinite(values).all():
        raise ValueError("an interval needs finite values")
    weighted = None if weights is None else np.array(weights, np.float64)
    means = np.average(values, axis=0, weights=weighted)
    if clusters.max() == 0:
        return {
            name: Interval(float(mean), None, None)
            for name, mean in zip(figures, means, strict=True)
        }
    drawn = resampled_means(values, clusters, weighted)
    tail = (1 - LEVEL) / 2
    lows, highs = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return {
        name: Interval(float(mean), float(low), float(high))
        for name, mean, low, high in zip(figures, means, lows, highs, strict=True)
    }


def share_interval(hits: Sequence[float], clusters: NDArray[np.int64]) -> Interval:
    """`mean_intervals` of values between 0 and 1.

    Where all are 1, or all 0, resampling shows no spread at all; then the exact
    binomial interval over the n prompts (Clopper and Pearson 1934): its open end is
    (1 − LEVEL)/2 to the power 1/n away from the other side.
    """
    found = mean_intervals({"": hits}, clusters)[""]
    reach = ((1 - LEVEL) / 2) ** (1 / (int(clusters.max()) + 1))
    if found.low is None or 0 < found.value < 1:
        return found
    if found.value == 1:
        return Interval(1.0, reach, 1.0)
    return Interval(0.0, 0.0, 1 - reach)


def difference(
    after: Mapping[str, Sequence[float]],
    before: Mapping[str, Sequence[float]],
    clusters: NDArray[np.int64],
    weights: Sequence[float] | None = None,
) -> dict[str, Interval]:
    """`after` − `before` pair by pair, of the figures in `after`, with intervals."""
    apart = {
        name: [a - b for a, b in zip(values, before[name], strict=True)]
        for name, values in after.items()
    }
    return mean_intervals(apart, clusters, weights)

"""Intervals over prompts, against cases worked out by hand and the analytic variance."""

import numpy as np
import pytest

from training.dpo.data import Pair
from training.dpo.intervals import (
    Interval,
    difference,
    mean_intervals,
    prompt_clusters,
    resampled_means,
    share_interval,
)


def test_pairs_of_one_prompt_are_one_cluster():
    pairs = [Pair(str(i), i, ids, [1], [2]) for i, ids in enumerate([[5], [6], [5]])]
    assert prompt_clusters(pairs).tolist() == [0, 1, 0]


def test_two_prompts_have_three_resamples_with_known_means_and_odds():
    """Prompt 0 has the pairs 1, 1 and 0, prompt 1 the pair 0. Two draws of two prompts:
    0 and 0 (one in four): mean 2/3; one of each (one in two): 2/4; 1 and 1: 0.
    Resampling pairs instead would also give 1, 3/4 and 1/4."""
    values, clusters = np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([0, 0, 0, 1])
    means = resampled_means(values, clusters, draws=40_000)[:, 0]
    found, counts = np.unique(means.round(6), return_counts=True)
    assert found.tolist() == [0.0, 0.5, round(2 / 3, 6)]
    assert counts / 40_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.01)


def test_weights_weigh_within_each_resample():
    """Values 1 and 0 in two prompts of weight 3 and 1: 1, 3/4 or 0."""
    means = resampled_means(
        np.array([[1.0], [0.0]]), np.array([0, 1]), np.array([3.0, 1.0]), draws=200
    )
    assert set(means[:, 0]) == {1.0, 0.75, 0.0}


def test_one_pair_a_prompt_gives_the_variance_of_a_mean():
    """Var of a bootstrap mean of n values is their variance (over n) / n; the ends of
    the interval are then some 1.96 standard errors away."""
    values = np.random.default_rng(1).normal(size=400)
    clusters = np.arange(400)
    means = resampled_means(values[:, None], clusters, draws=20_000)[:, 0]
    error = values.std() / 20
    assert means.std() == pytest.approx(error, rel=0.02)
    found = mean_intervals({"x": values.tolist()}, clusters)["x"]
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)


def test_pairs_that_repeat_a_prompt_do_not_make_it_surer():
    """Each prompt's value four times over is no more than once: the same draws."""
    values = np.random.default_rng(2).normal(size=50)
    once = mean_intervals({"x": values.tolist()}, np.arange(50))["x"]
    often = mean_intervals({"x": values.repeat(4).tolist()}, np.arange(50).repeat(4))
    for name in ("value", "low", "high"):
        assert getattr(often["x"], name) == pytest.approx(getattr(once, name))


def test_blocks_change_nothing(monkeypatch):
    values, clusters = np.arange(7.0)[:, None], np.arange(7)
    whole = resampled_means(values, clusters, draws=100)
    monkeypatch.setattr("training.dpo.intervals.NUMBERS_AT_ONCE", 21)
    assert (resampled_means(values, clusters, draws=100) == whole).all()


def test_a_constant_gain_is_certain_however_the_pairs_scatter():
    """Paired: 1 more on each pair is 1 more in every resample, though each of the two
    means is uncertain."""
    before = np.random.default_rng(3).normal(size=30)
    gain = difference(
        {"x": (before + 1).tolist()}, {"x": before.tolist()}, np.arange(30)
    )["x"]
    assert (gain.low, gain.value, gain.high) == pytest.approx((1, 1, 1))


def test_all_right_is_not_certainty():
    """20 of 20 prompts: the exact binomial bound is 0.025 ** (1/20) = 0.8316."""
    assert share_interval([1.0] * 20, np.arange(20)).low == pytest.approx(0.8316, 1e-4)
    none = share_interval([0.0] * 40, np.arange(40) // 2)
    assert (none.low, none.high) == pytest.approx((0, 0.1684), abs=1e-4)
    some = share_interval([1.0, 0.5, 0.0, 1.0], np.arange(4))
    assert some.value == 0.625 and some.low < 0.625 < some.high <= 1


def test_one_prompt_has_no_interval():
    zeros = np.zeros(3, int)
    assert mean_intervals({"x": [1.0, 2.0, 3.0]}, zeros)["x"] == Interval(2, None, None)
    assert share_interval([1.0, 1.0, 1.0], zeros) == Interval(1, None, None)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        mean_intervals({"x": [1.0, float("nan")]}, np.arange(2))

"""Agreement against published worked examples, and at its edges."""

import math
from collections import Counter

import numpy as np
import pytest

from annotation.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha

# Krippendorff (2011), section C: four observers, twelve units, values missing.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]

# Fleiss (1971) as its usual textbook form: ten subjects, fourteen raters, five categories.
SUBJECTS = [
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
]


def units(columns, labels):
    found = {}
    for column in columns:
        kind = tuple(column.count(label) for label in labels)
        found[kind] = found.get(kind, 0) + 1
    return found


def test_alpha_is_that_of_krippendorffs_example():
    """0.743; the unit that one observer saw counts for nothing."""
    found = krippendorff_alpha(units(zip(*OBSERVERS, strict=True), range(1, 6)))
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.units == 11
    assert found.low < found.value < found.high <= 1


def test_kappa_is_that_of_fleiss_example():
    """0.210: (0.378 − 0.213) / (1 − 0.213)."""
    found = fleiss_kappa(dict.fromkeys(SUBJECTS, 1))
    assert found.value == pytest.approx(0.210, abs=5e-4)
    assert (found.units, found.low < found.value < found.high) == (10, True)


def test_kappa_of_two_is_cohens():
    """50 grants, 20 taken and 15 refused by both, 5 and 10 by one alone: observed 0.7,
    by chance 0.5 · 0.6 + 0.5 · 0.4 = 0.5, so 0.4. Its large-sample error is
    √(0.7 · 0.3 / (50 · 0.5²)) = 0.13: the interval is about ± 0.25."""
    found = cohen_kappa({(0, 0): 20, (0, 1): 5, (1, 0): 10, (1, 1): 15}, labels=2)
    assert found.value == pytest.approx(0.4)
    error = 1.96 * math.sqrt(0.7 * 0.3 / (50 * 0.25))
    assert found.low == pytest.approx(0.4 - error, abs=0.05)
    assert found.high == pytest.approx(0.4 + error, abs=0.05)


def test_full_agreement_is_1_and_the_opposite_below_0():
    """Two labels, two annotators. Opposed: nothing observed, and by chance
    2 · 20 · 19 / (40 · 39) = 0.487, so −0.487 / 0.513 = −0.95."""
    assert krippendorff_alpha({(2, 0): 10, (0, 2): 10}).value == 1
    assert krippendorff_alpha({(1, 1): 20}).value == pytest.approx(-0.95)
    assert cohen_kappa({(0, 1): 10, (1, 0): 10}, labels=2).value == -1


@pytest.mark.parametrize(
    ("figure", "given"),
    [
        (krippendorff_alpha, {(2, 0): 10, (0, 2): 10}),
        (fleiss_kappa, {(2, 0): 10, (0, 2): 10}),
        (lambda cells: cohen_kappa(cells, labels=2), {(0, 0): 10, (1, 1): 10}),
    ],
)
def test_full_agreement_on_few_comparisons_is_not_certain(figure, given):
    """20 of 20 alike: Wilson's interval of 1 starts at n / (n + z²) = 20 / 23.84 = 0.839.
    By chance 1/2 agree (19/39 for alpha): (0.839 − 0.5) / 0.5 = 0.678; alpha 0.686."""
    found = figure(given)
    assert (found.value, found.high) == (1, pytest.approx(1))
    assert found.low == pytest.approx(0.68, abs=0.01)


def test_an_interval_by_hand():
    """Three annotators, 40 comparisons: 20 alike in full, 20 two against one, where 1 of 3
    pairs agrees. Observed 2/3, its variance (1/3)²/40 = 1/360, that of
    (2/3 · 1/3) / (1/360) = 80 judgments right or wrong. Wilson: (2/3 + 0.0240) / 1.0480
    ± 0.1012 = 0.558 to 0.760. Chance for Fleiss' kappa: both labels 60 of 120, 1/2."""
    found = fleiss_kappa({(3, 0): 10, (2, 1): 10, (1, 2): 10, (0, 3): 10})
    assert found.value == pytest.approx(1 / 3)
    assert found.low == pytest.approx(2 * 0.558 - 1, abs=0.002)
    assert found.high == pytest.approx(2 * 0.760 - 1, abs=0.002)


def test_below_ten_comparisons_there_is_no_interval():
    for units in ({(2, 0): 1, (0, 2): 1}, {(2, 0): 5, (1, 1): 2, (0, 2): 2}):
        found = krippendorff_alpha(units)
        assert found.value is not None
        assert (found.low, found.high) == (None, None)
    assert krippendorff_alpha({(2, 0): 5, (1, 1): 2, (0, 2): 3}).low is not None


def test_intervals_hold_what_they_promise():
    """Two annotators right 19 times in 20 agree with 0.905, alpha 0.81. Of 300 projects
    with 20 comparisons at least 90 % must have it in their interval; of those that
    resampling comparisons gave, 84 % had."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        one, other = rng.random((2, 20)) < 0.95
        true = rng.random(20) < 0.5
        labels = Counter(zip(one == true, other == true, strict=True))
        found = krippendorff_alpha(
            {
                (2, 0): labels[True, True],
                (1, 1): labels[True, False] + labels[False, True],
                (0, 2): labels[False, False],
            }
        )
        held += found.low <= 0.81 <= found.high
    assert held > 0.9 * 300


@pytest.mark.parametrize(
    ("figure", "given"),
    [
        (krippendorff_alpha, {}),
        (krippendorff_alpha, {(1, 0): 5, (0, 1): 3}),  # each judged once
        (fleiss_kappa, {(1, 0): 5}),
        (lambda cells: cohen_kappa(cells, labels=2), {}),
    ],
)
def test_nothing_judged_twice_is_no_figure(figure, given):
    found = figure(given)
    assert (found.value, found.low, found.high, found.units) == (None, None, None, 0)


def test_one_label_only_is_no_figure():
    """Chance alone would agree: no annotator could have shown better."""
    for found in (krippendorff_alpha({(3, 0): 7}), cohen_kappa({(0, 0): 7}, labels=2)):
        assert (found.value, found.low, found.units) == (None, None, 7)


def test_fleiss_takes_the_commonest_number_of_annotators():
    two, three = {(2, 0): 3, (1, 1): 2, (0, 2): 1}, {(3, 0): 2, (1, 2): 2}
    assert fleiss_kappa(two | three) == fleiss_kappa(two)
    assert fleiss_kappa(three | {(2, 0): 4}) == fleiss_kappa(three)
    assert fleiss_kappa(three).units == 4


def test_the_interval_is_the_same_each_time_and_narrows_with_more_comparisons():
    few = krippendorff_alpha({(2, 0): 8, (1, 1): 4, (0, 2): 8})
    many = krippendorff_alpha({(2, 0): 800, (1, 1): 400, (0, 2): 800})
    assert few == krippendorff_alpha({(2, 0): 8, (1, 1): 4, (0, 2): 8})
    assert many.high - many.low < 0.2 * (few.high - few.low)

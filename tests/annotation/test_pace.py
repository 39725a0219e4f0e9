"""Too fast by one's own pace; every figure derived by hand."""

import math

import pytest

from annotation import pace


def test_pace_is_seconds_a_character_with_an_overhead_for_the_deciding():
    """10 s for 300 characters and the 200 of overhead: 10 / 500."""
    assert pace.pace(10, 300) == 0.02
    assert pace.pace(0, 300) == pace.SHORTEST / 500


def test_nobody_is_too_fast_before_their_pace_is_known():
    assert pace.limit([1.0] * 19) is None
    assert pace.too_fast([1.0] * 18 + [0.001]) is None


def test_a_very_even_person_is_flagged_below_a_third_of_their_median():
    """The deviation is 0, so the limit is 0.02 / 3 = 0.00667."""
    even = [0.02] * 30
    assert pace.limit(even) == pytest.approx(0.02 / 3)
    assert pace.too_fast([*even, 0.0066, 0.0067]) == 1


def test_an_uneven_person_may_be_much_faster_than_usual():
    """Logs of half e⁻¹, half e¹ about a median of 0: all deviations are 1, σ = 1.4826,
    the limit e^(−3 · 1.4826) = e^−4.4478, an 85th of the median."""
    paces = [math.exp(-1)] * 10 + [1.0] + [math.exp(1)] * 10
    assert pace.limit(paces) == pytest.approx(math.exp(-4.4478))
    assert 1 / 90 < pace.limit(paces) < 1 / 80


def test_breaks_do_not_move_the_limit():
    """Of 41 paces the 21st is the median; ten nights of eight hours leave it."""
    day = [0.02] * 31
    assert pace.limit([*day, *[60.0] * 10]) == pytest.approx(pace.limit(day))


def test_a_pace_of_nothing_at_all_is_still_a_pace():
    assert pace.limit([pace.pace(0, 0)] * 20) == pytest.approx(0.05 / 200 / 3)

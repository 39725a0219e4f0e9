"""When there will be enough pairs. 21 November 2026 is a Saturday."""

from datetime import date, timedelta

from annotation.outlook import pace

FRIDAY = date(2026, 11, 20)


def days(*numbers, until=FRIDAY):
    """The numbers as those of so many days up to `until`."""
    first = until - timedelta(days=len(numbers) - 1)
    return {first + timedelta(days=n): value for n, value in enumerate(numbers)}


def test_seven_working_days_set_the_pace_and_weekends_off_do_not_count():
    """Thursday 12 to Friday 20 November are seven weekdays; 7 × 3 pairs are 3 a day, so
    20 more take 7 working days: Tuesday 1 December."""
    worked = days(9, 9, 9, 0, 0, 9, 9, 9, 9, 9)
    made = days(50, 3, 3, 0, 0, 3, 3, 3, 3, 3)
    found = pace(worked, made, 20, FRIDAY)
    assert (found.pairs, found.days, found.a_day) == (21, 7, 3.0)
    assert found.on == date(2026, 12, 1)


def test_a_weekend_on_which_somebody_judged_counts_and_comes_again():
    """Saturday and Sunday count: the seven days are 14 to 20 November, 14 pairs, 2 a
    day; 4 more are there after two days of which none is off."""
    found = pace(days(*[5] * 10), days(*[2] * 10), 4, FRIDAY)
    assert (found.pairs, found.days) == (14, 7)
    assert found.on == date(2026, 11, 22)


def test_a_weekday_without_work_slows_the_pace():
    found = pace(days(5, 0, 0, 0, 5), days(6, 0, 0, 0, 6), 12, FRIDAY)
    assert (found.pairs, found.days) == (12, 5)
    assert found.on == FRIDAY + timedelta(days=7)  # five working days from Monday on


def test_a_project_of_two_days_is_not_measured_by_seven():
    found = pace(days(5, 5), days(10, 10), 30, FRIDAY)
    assert (found.days, found.a_day) == (2, 10.0)
    assert found.on == date(2026, 11, 25)


def test_enough_has_no_date():
    found = pace(days(5), days(5), 0, FRIDAY)
    assert (found.missing, found.on) == (0, None)
    assert pace(days(5), days(5), -3, FRIDAY).missing == 0


def test_no_sound_pair_of_late_is_not_at_this_pace():
    """Judged all week, nothing sound; and nothing judged for four weeks."""
    found = pace(days(*[5] * 5), {}, 10, FRIDAY)
    assert (found.pairs, found.days, found.on) == (0, 5, None)
    old = {FRIDAY - timedelta(days=40): 9}
    assert pace(old, old, 10, FRIDAY).days == 0


def test_what_takes_years_has_no_date():
    found = pace(days(*[5] * 7), days(0, 0, 0, 0, 0, 0, 1), 5000, FRIDAY)
    assert found.pairs == 1 and found.on is None

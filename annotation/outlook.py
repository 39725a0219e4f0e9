"""When there will be enough new pairs for a round, at the pace of late. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

WORKING_DAYS = 7
"""Days that the pace is taken from, today's among them."""

LOOK_BACK = 28
"""Days looked at; seven working days lie within, whatever the holidays."""

FARTHEST = 366
"""Days; what takes longer has no date worth saying."""

SATURDAY = 5


@dataclass(frozen=True)
class Pace:
    pairs: int
    """New sound pairs of the days counted."""
    days: int
    """Working days counted; 0 before anything was judged."""
    missing: int
    """Pairs until there are enough; 0: there are."""
    on: date | None
    """When there will be enough; None: there are, or not at this pace."""

    @property
    def a_day(self) -> float:
        return self.pairs / self.days if self.days else 0.0


def pace(
    worked: Mapping[date, int], made: Mapping[date, int], missing: int, today: date
) -> Pace:
    """`worked`: {day: judgments}; `made`: {day: sound pairs that came of judging}.

    Counted are the last WORKING_DAYS working days up to today: Monday to Friday, and a
    Saturday or Sunday on which somebody judged; none before the first judgment of the
    last LOOK_BACK days, so that a project of two days is not measured by seven. The days
    ahead are weekdays, or all where a weekend was among the days counted.
    """
    days = _working_days(worked, today)
    pairs = sum(made.get(day, 0) for day in days)
    on = None
    if missing > 0 and pairs:
        at_weekends = any(day.weekday() >= SATURDAY for day in days)
        on = _ahead(today, math.ceil(missing * len(days) / pairs), at_weekends)
    return Pace(pairs, len(days), max(0, missing), on)


def _working_days(worked: Mapping[date, int], today: date) -> list[date]:
    since = today - timedelta(days=LOOK_BACK - 1)
    first = min((day for day, n in worked.items() if n and day >= since), default=None)
    days: list[date] = []
    day = today
    while first is not None and day >= first and len(days) < WORKING_DAYS:
        if day.weekday() < SATURDAY or worked.get(day):
            days.append(day)
        day -= timedelta(days=1)
    return days


def _ahead(today: date, days: int, at_weekends: bool) -> date | None:
    """The day on which so many working days from tomorrow on have passed."""
    day = today
    while days and (day - today).days <= FARTHEST:
        day += timedelta(days=1)
        if at_weekends or day.weekday() < SATURDAY:
            days -= 1
    return None if days else day

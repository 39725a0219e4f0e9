"""Which judgments came too fast, by the person's own pace. Pure.

Pace is seconds for each character of the two answers. A person is held against their
own median, never against others, and a flag rejects nothing. Leaves out where the
judgments come from (hurrying.py).
"""

import math
from collections.abc import Iterable
from statistics import median

OVERHEAD = 200
"""Characters added to every pair: deciding and pressing a key take as long as reading
these, so that short answers are not slow for being short."""

LEAST = 20
"""Judgments before anybody's pace is known."""

SPREADS = 3.0
"""How many robust standard deviations below the median is too fast …"""

TIMES = 3.0
"""… and at least so many times as fast, or a very even person were flagged for a little."""

SHORTEST = 0.05
"""Seconds that any judgment is taken to last, since log 0 is not a number."""


def pace(seconds: float, characters: int) -> float:
    """Seconds for each character; `characters` of both answers together."""
    return max(seconds, SHORTEST) / (characters + OVERHEAD)


def limit(paces: Iterable[float]) -> float | None:
    """The pace below which a judgment of this person is too fast; None below LEAST.

    On logarithms, as times are skewed: median − max(3 σ, ln 3) with σ = 1.4826 × the
    median absolute deviation, which is a normal's standard deviation and which breaks
    do not move (Leys et al., Journal of Experimental Social Psychology 49, 2013).
    """
    logs = [math.log(pace) for pace in paces]
    if len(logs) < LEAST:
        return None
    middle = median(logs)
    sigma = 1.4826 * median(abs(log - middle) for log in logs)
    return math.exp(middle - max(SPREADS * sigma, math.log(TIMES)))


def too_fast(paces: list[float]) -> int | None:
    """How many of one person's paces are below their limit; None below LEAST."""
    lowest = limit(paces)
    return None if lowest is None else sum(pace < lowest for pace in paces)

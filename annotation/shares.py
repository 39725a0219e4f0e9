"""Shares of a count with their uncertainty. Pure."""

import math
from dataclasses import dataclass

Z = 1.959964
"""Of a standard normal, 95 % lie within."""


@dataclass(frozen=True)
class Share:
    """`count` of `of`; `low` and `high` end its 95 % interval. All None where `of` is 0.
    `worth`: so many independent ones, None where each is."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None
    worth: float | None = None

    @property
    def percents(self) -> tuple[int, int, int] | None:
        """Value and interval in whole per cent."""
        if self.value is None or self.low is None or self.high is None:
            return None
        return round(100 * self.value), round(100 * self.low), round(100 * self.high)


def share(count: int, of: int, worth: float | None = None) -> Share:
    """With Wilson's interval of `of`, or of `worth` where some of them say the same."""
    if not of:
        return Share(count, of, None, None, None)
    return Share(count, of, count / of, *wilson(count / of, worth or of), worth)


def worth(of: int, together: float) -> float:
    """How many independent ones `of` that come in groups are worth at least: each group
    counts as one that weighs by its size, of² / Σ size² (Kish, Survey Sampling, 1965).

    `together`: Σ size², the group's size summed over its members.
    """
    return of * of / max(together, of) if of else 0.0


def wilson(p: float, n: float) -> tuple[float, float]:
    """The ends of the 95 % score interval of a share `p` of `n` (Journal of the American
    Statistical Association 22, 1927), which holds for few and for shares near 0 and 1."""
    z2 = Z * Z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = math.sqrt(p * (1 - p) * z2 + z2 * z2 / 4) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)

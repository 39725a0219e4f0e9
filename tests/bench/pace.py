"""How long the rest will take, from how fast what is done was. Leaves out the clock of
anything measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """Amounts planned and done, by kind of work; kinds run at different speeds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.planned: dict[str, float] = {}
        self.done: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def plan(self, kind: str, amount: float) -> None:
        self.planned[kind] = self.planned.get(kind, 0.0) + amount

    def did(self, kind: str, amount: float, seconds: float) -> None:
        self.done[kind] = self.done.get(kind, 0.0) + amount
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds

    @property
    def left(self) -> float | None:
        """Seconds; a kind not seen yet goes as the mean of the others. None: no idea."""
        if not sum(self.done.values()):
            return None
        mean = sum(self.seconds.values()) / sum(self.done.values())
        left = 0.0
        for kind, amount in self.planned.items():
            done = self.done.get(kind, 0.0)
            each = self.seconds[kind] / done if done else mean
            left += max(0.0, amount - done) * each
        return left

    @contextmanager
    def told(self, what: str, kind: str, amount: float) -> Iterator[None]:
        """Say what begins and what is left, then count it."""
        left = self.left
        rest = "" if left is None else f" (some {_minutes(left)} left)"
        self._say(f"{what}{rest}")
        begun = time.monotonic()
        yield
        self.did(kind, amount, time.monotonic() - begun)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

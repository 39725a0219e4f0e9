"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: str, probe: Callable[[], T], seconds: float = 40) -> T:
    """The first true answer of `probe`; AssertionError naming `what` after `seconds`.

    Long waits look less often: what they wait for needs the processors.
    """
    until = time.monotonic() + seconds
    while not (answer := probe()):
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(min(0.25, seconds / 1000))
    return answer

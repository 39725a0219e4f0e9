"""Annotators as threads over kept HTTP connections, each as fast as it is answered.

They share the machine with the server, so they do as little as they can: http.client,
no checks but the status. Leaves out what is asked; that is a function given to them.
"""

import http.client
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Ask = Callable[[str, Any], tuple[int, Any]]
"""POST: (path, body) → (status, the answer's JSON or None)."""

Person = Callable[[Ask, "Turn"], None]
"""One annotator's work; ends by itself when `turn.take()` says so."""


@dataclass
class Turn:
    """`count` requests shared by all annotators, and what came of each."""

    count: int
    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    _taken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> int | None:
        """The number of the next request, from 1; None when there are enough."""
        with self._lock:
            if self._taken >= self.count:
                return None
            self._taken += 1
            return self._taken

    def timed(self, ask: Ask, path: str, body: Any) -> Any:
        """Ask, note the time it took; the answer, None where it was refused."""
        begun = time.perf_counter()
        status, answer = ask(path, body)
        passed = time.perf_counter() - begun
        with self._lock:
            if status not in (200, 201):  # 200: asked again, known already
                self.refused.append(status)
                return None
            self.times.append(passed)
        return answer

    @property
    def per_second(self) -> float:
        return len(self.times) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the requests was answered."""
        ordered = sorted(self.times)
        return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def work(port: int, people: Sequence[tuple[str, Person]], count: int) -> Turn:
    """All people (token, what they do) at once, until `count` requests are made."""
    turn = Turn(count)
    threads = [
        threading.Thread(target=_one, args=(port, token, person, turn))
        for token, person in people
    ]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turn.seconds = time.perf_counter() - begun
    return turn


def _one(port: int, token: str, person: Person, turn: Turn) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"

    def ask(path: str, body: Any) -> tuple[int, Any]:
        for attempt in (1, 2):
            try:
                connection.request("POST", path, json.dumps(body), headers)
                answer = connection.getresponse()
                content = answer.read()
                return answer.status, json.loads(content) if content else None
            except (ConnectionError, http.client.HTTPException):
                # The server may close a kept connection just then.
                connection.close()
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    try:
        person(ask, turn)
    finally:
        connection.close()

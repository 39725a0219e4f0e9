"""Messages to workers that a request can afford: sent at once or given up at once.

Rows are the truth and the beat sends again what was lost, so waiting for a broker is
never worth it: by default kombu would try for six seconds, in every request. For the
same reason one message a second says as much as fifty do (`hint`).
"""

import logging
import os
import threading
import time
from functools import cache
from typing import Any

from celery import Task, current_app
from kombu.pools import producers

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""After a failure nothing is tried for so long: a silent broker costs a time-out."""

HINT_SECONDS = 1.0
"""The same hint goes out no more often than this, from each process."""

_quiet_until = 0.0
_lock = threading.Lock()
_next_at: dict[tuple, float] = {}
"""By task and arguments: when the same may go out again."""
_waiting: set[tuple] = set()
"""Hints that will go out once their time has come."""


@cache
def _producers():
    connection = current_app.connection_for_write(transport_options={"max_retries": 0})
    return producers[connection]


def send(task: Task, *args: Any, **options: Any) -> bool:
    """Publish the task; whether that worked. Never raises, never waits long."""
    global _quiet_until
    if time.monotonic() < _quiet_until:
        return False
    try:
        with _producers().acquire(block=True, timeout=1) as producer:
            task.apply_async(args=args, producer=producer, retry=False, **options)
    except Exception as fault:  # kombu raises whatever its transport raises
        _quiet_until = time.monotonic() + PAUSE_SECONDS
        logger.warning("%s wasn't sent; the beat will do it: %s", task.name, fault)
        return False
    return True


def hint(task: Task, *args: Any, **options: Any) -> None:
    """`send`, unless the same went out within HINT_SECONDS: then once, after those.

    So the last one is never swallowed: whoever acts on it sees all that led to it.
    """
    key = (task.name, args)
    now = time.monotonic()
    with _lock:
        if key in _waiting:
            return
        wait = _next_at.get(key, now) - now
        if wait > 0:
            _waiting.add(key)
            timer = threading.Timer(wait, _send_late, (key, task, args, options))
            timer.daemon = True  # What a stop swallows, the beat makes up for.
            timer.start()
            return
        _next_at[key] = now + HINT_SECONDS
    send(task, *args, **options)


def _send_late(key: tuple, task: Task, args: tuple, options: dict[str, Any]) -> None:
    with _lock:
        _waiting.discard(key)
        _next_at[key] = time.monotonic() + HINT_SECONDS
    send(task, *args, **options)


def forget_hints() -> None:
    """Begin anew: in a forked child, whose parent's timers it hasn't got, or a test."""
    _next_at.clear()
    _waiting.clear()


os.register_at_fork(after_in_child=forget_hints)

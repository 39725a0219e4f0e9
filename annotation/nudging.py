"""Messages to workers that a request can afford: sent at once or given up at once.

Rows are the truth and the beat sends again what was lost, so waiting for a broker is
never worth it: by default kombu would try for six seconds, in every request.
"""

import logging
import time
from functools import cache
from typing import Any

from celery import Task, current_app
from kombu.pools import producers

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""After a failure nothing is tried for so long: a silent broker costs a time-out."""

_quiet_until = 0.0


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

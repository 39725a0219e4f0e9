"""When the beat sends which task: by a clock that nobody can set."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.schedules import schedule

_BEGAN, _BEGAN_AT = datetime.now(UTC), time.monotonic()


def steady_now() -> datetime:
    """Now, by the clock of when this process began and the seconds since.

    With the machine's own clock set back an hour, the beat would rest for that hour.
    """
    return _BEGAN + timedelta(seconds=time.monotonic() - _BEGAN_AT)


def every(seconds: float, task: str, expires: float = 60.0) -> dict[str, Any]:
    """An entry of CELERY_BEAT_SCHEDULE, first due at once.

    `expires`: seconds after which a message that no worker has taken is dropped, or those
    of a night without one would all be done in the morning.
    """
    return {
        "task": task,
        "schedule": schedule(seconds, nowfun=steady_now),
        "last_run_at": steady_now() - timedelta(seconds=seconds),
        "options": {"expires": expires},
    }

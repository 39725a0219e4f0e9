"""How a task that lasts learns that its Celery worker was asked to stop.

Celery tells only its main process, and a task runs in a pool child; for SIGQUIT it
even waits out the soft shutdown before it sends `worker_shutting_down`. So the main
process's signal handlers are wrapped, and one shared byte, made before the pool
forks, carries the word to the child. A worker that stops then ends as soon as the
round's trainer has written its checkpoint, or the pairs that are being sampled are
there, instead of waiting for the round's end or a full stock.
"""

import mmap
import signal
from typing import Any

from celery.signals import worker_ready, worker_shutting_down

_flag = mmap.mmap(-1, 1)
"""Anonymous and shared: a forked child sees what its parent writes."""


def requested() -> bool:
    """Whether this process, or the worker it was forked from, is to stop."""
    return _flag[0] != 0


def request(*_args: Any, **_kwargs: Any) -> None:
    """Ask for the stop; safe in a signal handler."""
    _flag[0] = 1


@worker_ready.connect
def _wrap_handlers(**_kwargs: Any) -> None:
    for signum in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
        celerys = signal.getsignal(signum)
        if callable(celerys):

            def handle(number: int, frame: Any, celerys: Any = celerys) -> None:
                request()
                celerys(number, frame)

            signal.signal(signum, handle)


worker_shutting_down.connect(request, weak=False)

"""Several threads' writes in one commit of SQLite.

SQLite syncs the disk for every commit and takes one writer at a time, so eight
annotators wait for eight syncs. Here whoever comes while a commit is under way leaves
their work in a line; the next to write does all that is in it, each part in a savepoint
of its own, and commits once. Nobody is answered before that commit. A part that fails
is rolled back alone and fails where it was asked for; a commit that fails, fails all,
and so does a part that ends the whole transaction.

Threads of one process only: processes queue (config/sqlite). PostgreSQL commits
together by itself, so there each work has a transaction of its own.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from django.db import OperationalError, connection, transaction
from django.utils import translation

T = TypeVar("T")


def committed(work: Callable[[], T]) -> T:
    """What `work` returns, once that is committed; what it raises, once rolled back.

    `work` may run in another thread than the caller's, and so on its connection: it
    must not depend on either. It runs in the caller's language. What it leaves to
    `on_commit` runs in the other thread, too. Inside of a transaction that is open
    already, `work` is simply a part of that.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic():
            return work()
    return _line.write(work)


class _Part(Generic[T]):
    """One caller's work, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.language = translation.get_language()
        self.is_done = False
        self.result: T | None = None
        self.error: BaseException | None = None
        # Released when it is done, or when its caller is to lead.
        self.wake = threading.Lock()
        self.wake.acquire()

    def do(self, *, savepoint: bool) -> None:
        try:
            with (
                translation.override(self.language),
                transaction.atomic(savepoint=savepoint),
            ):
                self.result = self.work()
        except BaseException as error:  # Raised again by its caller.
            self.error = error


class _Line:
    """One process's callers. One of them leads; the others wait to be woken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Part[Any]] = []
        self._is_led = False

    def write(self, work: Callable[[], T]) -> T:
        part = _Part(work)
        with self._lock:
            self._waiting.append(part)
            follows, self._is_led = self._is_led, True
        if follows:
            part.wake.acquire()
        if not part.is_done:
            self._lead()
        if part.error is not None:
            raise part.error
        return part.result  # type: ignore[return-value]

    def _lead(self) -> None:
        """Do what waits, the leader's own among it; then wake the next leader."""
        with self._lock:
            parts, self._waiting = self._waiting, []
        try:
            with transaction.atomic():
                for part in parts:
                    part.do(savepoint=len(parts) > 1)
                    if connection.needs_rollback:
                        # SQLite took back more than this part (on a full disk it may
                        # end the transaction): those before it must not be told that
                        # theirs is stored.
                        raise part.error or OperationalError("rolled back")
        except BaseException as error:  # Not committed, so nobody's work is.
            for part in parts:
                part.error = error
        with self._lock:
            if self._waiting:
                self._waiting[0].wake.release()
            else:
                self._is_led = False
        for part in parts:
            part.is_done = True
            part.wake.release()


_line = _Line()


def _begin_anew() -> None:
    global _line
    _line = _Line()


# A child has none of its parent's threads, one of which may have led the line.
os.register_at_fork(after_in_child=_begin_anew)

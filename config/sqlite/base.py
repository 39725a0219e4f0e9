"""SQLite whose writers queue instead of sleeping and trying again.

SQLite takes one writer at a time. Who comes meanwhile sleeps, in steps that grow to a
tenth of a second, and tries again, in no order: with eight annotators one judgment in
twenty took half a second. Here a transaction first waits for a lock of its process,
then for one between processes (flock on a file beside the database); both wake the next
one at once.

The queue only orders those who come through it. SQLite's own lock, with its time-out,
remains what keeps writers apart, so a write outside of it (autocommit, another program)
is as safe as ever.
"""

import fcntl
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.sqlite3 import base
from django.db.utils import OperationalError


class Queue:
    """One process's place among those who write to one database."""

    def __init__(self) -> None:
        self._thread = threading.Lock()
        self._file: int | None = None

    def join(self, database: str, timeout: float) -> None:
        """Wait for one's turn. Raises OperationalError after `timeout` seconds."""
        if not self._thread.acquire(timeout=timeout):
            raise OperationalError("database is locked")
        try:
            if self._file is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._file = os.open(f"{database}-queue", flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except BaseException:
            self._thread.release()
            raise

    def leave(self) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._thread.release()


_queues: defaultdict[str, Queue] = defaultdict(Queue)
# A child shares the open file, and with it the lock, of its parent: it needs its own.
os.register_at_fork(after_in_child=_queues.clear)


class DatabaseWrapper(base.DatabaseWrapper):
    _in_queue: Queue | None = None

    def _start_transaction_under_autocommit(self) -> None:
        database = str(self.settings_dict["NAME"])
        if not self.is_in_memory_db() and self._in_queue is None:
            queue = _queues[database]
            queue.join(database, self.settings_dict["OPTIONS"].get("timeout", 5.0))
            self._in_queue = queue
        try:
            super()._start_transaction_under_autocommit()
        except BaseException:
            self._leave()
            raise

    def _commit(self) -> Any:
        super()._commit()
        # A commit that failed is rolled back, which leaves the queue as well.
        self._leave()

    def _rollback(self) -> Any:
        with self._leaving():
            return super()._rollback()

    def _close(self) -> Any:
        with self._leaving():
            return super()._close()

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        queue, self._in_queue = self._in_queue, None
        if queue is not None:
            queue.leave()

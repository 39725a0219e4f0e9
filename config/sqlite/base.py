"""SQLite whose writers queue instead of sleeping and trying again.

SQLite takes one writer at a time. Who comes meanwhile sleeps, in steps that grow to a
tenth of a second, and tries again, in no order: with eight annotators one judgment in
twenty took half a second. Here a transaction first waits for a lock of its process,
then for one between processes (flock on a file beside the database); both wake the next
one at once. Both waits together end after the database's own time-out, as SQLite's does:
a process that is stopped within a transaction makes others fail, not hang.

The queue only orders those who come through it. SQLite's own lock, with its time-out,
remains what keeps writers apart, so a write outside of it (autocommit, another program)
is as safe as ever.
"""

import fcntl
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from django.db.backends.sqlite3 import base
from django.db.utils import OperationalError


class FileLock:
    """A lock between processes whose wait can end. One thread at a time may use it.

    flock can't be told how long to wait, and asking it again and again would be the
    polling that the queue is there to end. So a thread of its own waits in flock, once
    for whoever waits here; a wait that was given up is taken over by the next one, or
    lets go at once of what it gets.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._path = path
        self._guard = threading.Lock()
        self._given_up: Future[None] | None = None
        self._asked: SimpleQueue[Future[None]] | None = None

    def acquire(self, timeout: float) -> bool:
        """Whether it was had within so many seconds."""
        with self._guard:
            waiting, self._given_up = self._given_up, None
        if waiting is None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                waiting = self._ask()
        try:
            waiting.result(timeout)
            return True
        except TimeoutError:
            with self._guard:
                if waiting.done():
                    return True
                self._given_up = waiting
                return False

    def release(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def forget(self) -> None:
        """In a forked child: an open copy here would keep the lock of a parent that is
        killed. Closing it releases nothing while the parent has its own."""
        os.close(self._file)

    def _ask(self) -> "Future[None]":
        if self._asked is None:
            self._asked = SimpleQueue()
            # A daemon: one that waits for a stopped process must not keep us from ending.
            threading.Thread(
                target=self._wait_for,
                args=[self._asked],
                name=f"waits for {self._path}",
                daemon=True,
            ).start()
        waiting: Future[None] = Future()
        waiting.add_done_callback(self._let_go)
        self._asked.put(waiting)
        return waiting

    def _wait_for(self, asked: "SimpleQueue[Future[None]]") -> None:
        while True:
            waiting = asked.get()
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            except OSError as error:
                waiting.set_exception(error)
            else:
                waiting.set_result(None)

    def _let_go(self, waiting: "Future[None]") -> None:
        with self._guard:
            if self._given_up is waiting:
                self._given_up = None
                self.release()


class Queue:
    """One process's place among those who write to one database."""

    def __init__(self) -> None:
        self._thread = threading.Lock()
        self._file: FileLock | None = None

    def join(self, database: str, timeout: float) -> None:
        """Wait for one's turn. Raises OperationalError after `timeout` seconds."""
        until = time.monotonic() + timeout
        if not self._thread.acquire(timeout=timeout):
            raise OperationalError("database is locked")
        try:
            if self._file is None:
                self._file = FileLock(f"{database}-queue")
            if not self._file.acquire(max(0.0, until - time.monotonic())):
                raise OperationalError("database is locked")
        except BaseException:
            self._thread.release()
            raise

    def leave(self) -> None:
        # None in a child that was forked within a transaction of its parent's.
        if self._file is not None:
            self._file.release()
        self._thread.release()

    def forget(self) -> None:
        if self._file is not None:
            self._file.forget()
            self._file = None


_queues: defaultdict[str, Queue] = defaultdict(Queue)


def _begin_anew() -> None:
    """A child shares the open file, and with it the lock, of its parent: it needs its
    own."""
    for queue in _queues.values():
        queue.forget()
    _queues.clear()


os.register_at_fork(after_in_child=_begin_anew)


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

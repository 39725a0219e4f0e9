"""Writers of SQLite take turns: in one process, between processes, and after failures."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from annotation.models import Project
from config.sqlite import base
from tests.factories import make_project

OTHER = """
import sys
from config.sqlite.base import Queue
queue = Queue()
queue.join(sys.argv[1], 30)
print("mine", flush=True)
sys.stdin.readline()
queue.leave()
print("left", flush=True)
"""


@pytest.fixture
def database(tmp_path):
    return str(tmp_path / "some.sqlite3")


def test_threads_and_processes_wait_for_one_another(database):
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "mine\n"
        queue, order = base.Queue(), []

        def write(number):
            queue.join(database, 30)
            order.append(number)
            queue.leave()

        threads = [threading.Thread(target=write, args=[n]) for n in range(3)]
        for thread in threads:
            thread.start()
        assert order == []
        other.stdin.write("\n")
        other.stdin.flush()
        for thread in threads:
            thread.join(30)
        assert sorted(order) == [0, 1, 2]
    finally:
        other.kill()
        other.wait()


def test_a_process_that_dies_in_its_turn_gives_it_up(database):
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    other.kill()
    other.wait()
    queue = base.Queue()
    queue.join(database, 30)
    queue.leave()


PARENT = """
import os, sys, time
from config.sqlite import base
queue = base._queues[sys.argv[1]]
queue.join(sys.argv[1], 30)
queue.leave()
child = os.fork()
if child == 0:
    time.sleep(600)
queue.join(sys.argv[1], 30)
print(child, flush=True)
time.sleep(600)
"""


def test_a_killed_process_gives_its_turn_up_though_a_child_of_it_lives(database):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, database], stdout=subprocess.PIPE, text=True
    )
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        queue = base.Queue()
        queue.join(database, 30)
        queue.leave()
    finally:
        os.kill(child, signal.SIGKILL)


def test_who_waits_too_long_is_told_as_sqlite_tells_it(database):
    queue = base.Queue()
    queue.join(database, 1)
    with pytest.raises(OperationalError, match="locked"):
        queue.join(database, 0.05)
    queue.leave()
    queue.join(database, 1)
    queue.leave()


def stopped_in_its_turn(database, writes_to=""):
    """Another process, stopped while it is its turn; within a transaction, if it writes."""
    script = OTHER
    if writes_to:
        begin = f"""
import sqlite3
connection = sqlite3.connect({writes_to!r}, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
"""
        script = script.replace('print("mine"', f'{begin}print("mine"')
        script = script.replace("queue.leave()", "connection.rollback()\nqueue.leave()")
    other = subprocess.Popen(
        [sys.executable, "-c", script, database],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    other.send_signal(signal.SIGSTOP)
    return other


def goes_on(other):
    other.send_signal(signal.SIGCONT)
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "left\n"
    other.wait()


def test_a_process_stopped_in_its_turn_makes_others_fail_and_not_hang(database):
    other = stopped_in_its_turn(database)
    try:
        queue = base.Queue()
        for _attempt in range(3):
            with pytest.raises(OperationalError, match="database is locked"):
                queue.join(database, 0.05)
        # One thread waits on, however often it was tried.
        assert sum(database in t.name for t in threading.enumerate()) == 1
        goes_on(other)
        queue.join(database, 30)
        queue.leave()
    finally:
        other.kill()
        other.wait()


def test_a_wait_that_was_given_up_keeps_nobody_else_out(database):
    """It gets the lock when the stopped process goes on, though nobody wants it here."""
    other = stopped_in_its_turn(database)
    try:
        with pytest.raises(OperationalError):
            base.Queue().join(database, 0.05)
        goes_on(other)
        next_one = base.Queue()
        next_one.join(database, 30)
        next_one.leave()
    finally:
        other.kill()
        other.wait()


def test_a_wait_that_was_given_up_is_taken_over_by_the_next(database):
    other = stopped_in_its_turn(database)
    try:
        queue = base.Queue()
        with pytest.raises(OperationalError):
            queue.join(database, 0.05)
        late = threading.Thread(target=queue.join, args=[database, 30])
        late.start()
        goes_on(other)
        late.join(30)
        assert not late.is_alive()
        with pytest.raises(OperationalError):
            base.Queue().join(database, 0.05)
        queue.leave()
    finally:
        other.kill()
        other.wait()


def test_a_stopped_writer_makes_a_transaction_fail_as_a_locked_database_does(
    transactional_db, monkeypatch
):
    make_project()
    name = str(connection.settings_dict["NAME"])
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "timeout", 0.1)
    other = stopped_in_its_turn(name, writes_to=name)
    try:
        with (
            pytest.raises(OperationalError, match="database is locked"),
            transaction.atomic(),
        ):
            Project.objects.update(name="never")
        assert connection._in_queue is None
        assert Project.objects.exclude(name="never").exists(), "reading goes on"
        monkeypatch.setitem(options, "timeout", 30)
        goes_on(other)
        with transaction.atomic():
            Project.objects.update(name="later")
    finally:
        other.kill()
        other.wait()
    assert Project.objects.get().name == "later"


def test_transactions_leave_the_queue_however_they_end(transactional_db):
    """Committed, refused by a constraint, raised out of, or the connection closed."""
    assert connection.settings_dict["ENGINE"] == "config.sqlite"
    project = make_project()

    def refused():
        with pytest.raises(IntegrityError), transaction.atomic():
            Project.objects.create(
                slug=project.slug, channel=project.channel, base=project.base
            )

    def raised():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Project.objects.update(name=str(1 // 0))

    def closed():
        with transaction.atomic():
            Project.objects.update(name="never kept")
            connection.close()

    for act in (refused, raised, closed):
        act()
        assert connection._in_queue is None
        with transaction.atomic():
            Project.objects.update(name=act.__name__)
    assert Project.objects.get().name == "closed"


def test_who_writes_past_the_queue_is_still_kept_apart(transactional_db):
    """The queue orders; SQLite's own lock protects."""
    make_project()
    name = connection.settings_dict["NAME"]
    with transaction.atomic():
        Project.objects.update(name="held")
        stranger = sqlite3.connect(name, timeout=0.05)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            stranger.execute("UPDATE annotation_project SET name = 'stranger'")
        stranger.close()
    assert Project.objects.get().name == "held"

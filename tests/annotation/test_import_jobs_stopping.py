"""Imports that are stopped, whose worker dies, that are gone on with."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from annotation import import_jobs, importing, storing
from annotation.errors import ImportState
from annotation.models import ImportJob, PreferencePair
from annotation.tasks import run_import, tend_imports
from tests.annotation.import_files import counts, done, jsonl, pair
from tests.threads import together

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


class Killed(BaseException):
    """As if the process had been killed: nothing of ours catches it."""


def kill_after(monkeypatch, batches, *, inside):
    """Die in the batch after so many, before its transaction ends (`inside`) or after."""
    real_store, real_keep = storing.store, import_jobs._store
    count = iter(range(1000))

    def store(*args):
        stored = real_store(*args)
        if inside and next(count) == batches:
            raise Killed
        return stored

    def whole(*args):
        real_keep(*args)
        if not inside and next(count) == batches:
            raise Killed

    monkeypatch.setattr(storing, "store", store)
    monkeypatch.setattr(import_jobs, "_store", whole)
    return lambda: (
        monkeypatch.setattr(storing, "store", real_store),
        monkeypatch.setattr(import_jobs, "_store", real_keep),
    )


@pytest.mark.parametrize("inside", [True, False])
def test_a_killed_worker_is_gone_on_with_and_nothing_is_doubled(
    project, receive, sent, monkeypatch, inside
):
    monkeypatch.setattr(importing, "PAIR_BATCH", 4)
    rows = [pair(n) if n % 5 else {"prompt": "bad"} for n in range(30)]
    job = receive(jsonl(rows))
    import_jobs.start(job)
    mend = kill_after(monkeypatch, 3, inside=inside)
    with pytest.raises(Killed):
        import_jobs.run(job.pk)
    mend()
    job.refresh_from_db()
    whole = 3 if inside else 4
    assert (job.state, job.items_done) == ("running", 4 * whole)
    assert PreferencePair.objects.count() == job.accepted
    # Not silent for long enough: nobody takes it over yet.
    import_jobs.run(job.pk)
    import_jobs.tend()
    assert ImportJob.objects.get(pk=job.pk).epoch == 1 and sent == []
    old = timezone.now() - timedelta(minutes=2)
    ImportJob.objects.filter(pk=job.pk).update(heartbeat_at=old)
    import_jobs.tend()
    assert sent == [job.pk]
    run_import(job.pk)
    job.refresh_from_db()
    assert counts(job) == ("done", 24, 0, 6)
    assert job.faults.count() == 6 and PreferencePair.objects.count() == 24
    assert job.epoch == 2


def test_a_file_that_ends_every_worker_is_given_up(project, receive, sent, monkeypatch):
    """Rows that need more memory than there is would end one worker after another."""
    monkeypatch.setattr(importing, "PAIR_BATCH", 4)
    job = receive(jsonl(map(pair, range(12))))
    import_jobs.start(job)
    for whole in (1, 0, 0, 0):  # The first gets one batch in, the others none.
        mend = kill_after(monkeypatch, whole, inside=True)
        with pytest.raises(Killed):
            import_jobs.run(job.pk)
        mend()
        # Set back by an hour: the dead worker's heartbeat is of the future.
        later = timezone.now() + timedelta(hours=1)
        ImportJob.objects.filter(pk=job.pk).update(heartbeat_at=later)
        sent.clear()
        import_jobs.tend()
        assert sent == [job.pk]
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert job.state == "failed" and "memory" in job.error
    assert PreferencePair.objects.count() == job.items_done == 4
    # Somebody who has made room may have it gone on with.
    assert counts(done(job)) == ("done", 12, 0, 0)


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(
    project, receive, monkeypatch
):
    monkeypatch.setattr(importing, "PAIR_BATCH", 2)
    job = receive(jsonl(map(pair, range(10))))
    import_jobs.start(job)
    real = storing.store
    stolen = []

    def store(*args):
        if len(stolen) == 0:
            stolen.append(1)
            ImportJob.objects.filter(pk=job.pk).update(epoch=9)
        return real(*args)

    monkeypatch.setattr(storing, "store", store)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.items_done, PreferencePair.objects.count()) == (
        "running",
        0,
        0,
    )


def test_a_stopped_import_keeps_what_is_in_and_goes_on_from_there(
    project, receive, monkeypatch
):
    monkeypatch.setattr(importing, "PAIR_BATCH", 3)
    job = receive(jsonl(map(pair, range(12))))
    import_jobs.start(job)
    real = import_jobs._store
    calls = iter(range(100))

    def store(*args):
        if next(calls) == 2:
            import_jobs.cancel(ImportJob.objects.get(pk=job.pk))
        return real(*args)

    monkeypatch.setattr(import_jobs, "_store", store)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert (job.state, job.accepted) == ("cancelled", 6)
    assert PreferencePair.objects.count() == 6 and Path(job.path).exists()
    with pytest.raises(ImportState):
        import_jobs.cancel(job)
    assert counts(done(job)) == ("done", 12, 0, 0)
    with pytest.raises(ImportState):
        import_jobs.start(job)


def test_what_nobody_started_is_let_go_with_its_file(receive):
    job = receive(jsonl([pair(1)]))
    import_jobs.cancel(job)
    assert not Path(job.path).exists()
    left = receive(jsonl([pair(1)]))
    ImportJob.objects.filter(pk=left.pk).update(
        created_at=timezone.now() - timedelta(days=8)
    )
    tend_imports()
    assert not Path(left.path).parent.exists()
    with pytest.raises(ImportState, match="gone"):
        import_jobs.start(ImportJob.objects.get(pk=left.pk))


def test_the_file_of_a_done_import_goes_even_if_its_worker_died_before(receive):
    job = receive(jsonl([pair(1)]))
    ImportJob.objects.filter(pk=job.pk).update(
        state="done", created_at=timezone.now() - timedelta(days=8)
    )
    tend_imports()
    assert not Path(job.path).parent.exists()


def test_a_fault_of_ours_is_told_and_can_be_gone_on_from(project, receive, monkeypatch):
    job = receive(jsonl(map(pair, range(3))))
    with monkeypatch.context() as broken:
        broken.setattr(storing, "store", lambda *args: 1 / 0)
        assert done(job).state == "failed"
    assert "log" in job.error
    assert counts(done(job)) == ("done", 3, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_one_takes_the_job(project, receive, monkeypatch):
    job = receive(jsonl(map(pair, range(300))))
    ImportJob.objects.filter(pk=job.pk).update(state="queued")
    together(*[lambda: import_jobs.run(job.pk)] * 3)
    job.refresh_from_db()
    assert counts(job) == ("done", 300, 0, 0)
    assert job.epoch == 1 and PreferencePair.objects.count() == 300

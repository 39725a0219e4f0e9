"""Large files: previewed, taken in by a worker, stopped, gone on with; folders, archives."""

import errno
import gzip
import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from annotation import import_jobs, importing, storing
from annotation.errors import ImportRefused, ImportState
from annotation.files import parts
from annotation.models import ImportFault, ImportJob, PreferencePair, Prompt
from annotation.tasks import run_import, tend_imports
from tests.factories import make_project, make_user
from tests.threads import together

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def sent(monkeypatch):
    """The jobs that workers were told of, instead of a broker."""
    jobs: list[int] = []
    monkeypatch.setattr("annotation.import_jobs._nudge", jobs.append)
    monkeypatch.setattr("annotation.import_jobs.send", lambda *args, **options: None)
    return jobs


@pytest.fixture
def receive(project, manager, sent):
    def receive(data, name="file"):
        data = data if isinstance(data, bytes) else data.encode()
        return import_jobs.receive(project, manager, SimpleUploadedFile(name, data))

    return receive


def done(job, kind="", mapping=None):
    import_jobs.start(job, kind, mapping)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    return job


def counts(job):
    return job.state, job.accepted, job.duplicates, job.rejected


def pair(n):
    return {"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."}


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows):
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
    return file.getvalue()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


# --- From the file to the rows -----------------------------------------------------------
def test_a_file_is_kept_looked_at_taken_in_and_removed(project, receive, sent):
    lines = jsonl([pair(1), {"prompt": "no answers"}, pair(2), pair(1)])
    job = receive(lines, "my pairs.jsonl")
    assert (job.kind, job.state, job.name) == ("pairs", "preview", "my pairs.jsonl")
    found = import_jobs.preview(job)
    assert (found.n_good, found.n_bad, found.formats) == (3, 1, ["trl"])
    assert found.columns == ["prompt", "chosen", "rejected"]
    assert not PreferencePair.objects.exists()

    import_jobs.start(job)
    assert Path(job.path).exists()
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert counts(job) == ("done", 2, 1, 1)
    assert job.share == 1.0 and job.items_done == 4 and job.finished_at
    (fault,) = job.faults.all()
    assert (fault.line, "rejected" in fault.reason or "chosen" in fault.reason) == (
        2,
        True,
    )
    assert not Path(job.path).parent.exists()
    assert counts(done(receive(lines))) == ("done", 0, 3, 1)


def test_prompts_are_told_by_their_fields_and_come_in_the_same_way(project, receive):
    job = done(receive("prompt\nWhy?\nHow?\n \nWhy?\n", "prompts.csv"))
    assert (job.kind, *counts(job)) == ("prompts", "done", 2, 1, 0)
    assert Prompt.objects.filter(project=project, is_asked=True).count() == 2


@pytest.mark.parametrize("first", ["# made on Monday", '"prompt": "cut off"}', "oops"])
def test_a_broken_first_line_costs_itself_only_where_the_name_tells_the_format(
    project, receive, first
):
    lines = first + "\n" + jsonl({"prompt": f"Why {n}?"} for n in range(5))
    for file, name in (
        (lines, "x.jsonl"),
        (gzip.compress(lines.encode()), "../x.NDJSON.gz"),
        (zipped({"a/x.jsonl": lines}), "x.zip"),
    ):
        Prompt.objects.all().delete()
        job = done(receive(file, name))
        assert (job.kind, *counts(job)) == ("prompts", "done", 5, 0, 1), name
        assert job.faults.get().line == 1 and "not JSON" in job.faults.get().reason
    # Where it begins as a list does, its name counts for nothing.
    assert done(receive(json.dumps([{"prompt": "Q"}]), "x.jsonl")).accepted == 1


def test_of_two_columns_that_could_be_the_prompt_the_named_one_is(project, receive):
    """As UltraFeedback has them: `messages` ends with an answer."""
    chat = [{"role": role, "content": role} for role in ("user", "assistant")]
    rows = [{"prompt": f"Q{n}", "messages": chat} for n in range(3)]
    job = receive(jsonl(rows))
    assert import_jobs.preview(job, "prompts").n_bad == 3

    def mapping(**named):
        data = {f"map_{name}": column for name, column in named.items()}
        return import_jobs.mapping_of("prompts", data, ["prompt", "messages"])

    assert mapping() == mapping(prompt="gone") == {}
    assert import_jobs.preview(job, "prompts", mapping(messages="messages")).n_bad == 3
    assert counts(done(job, "prompts", mapping(prompt="prompt")))[1:] == (3, 0, 0)
    asked = [prompt.messages[-1]["content"] for prompt in project.prompts.all()]
    assert sorted(asked) == ["Q0", "Q1", "Q2"]


def test_columns_under_other_names_are_mapped(project, receive):
    rows = [{"question": "Why?", "good": "So.", "bad": "No.", "chosen": "x", "n": 1}]
    job = receive(jsonl(rows))
    mapping = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert import_jobs.preview(job, "pairs", mapping).n_good == 1
    assert counts(done(job, "pairs", mapping)) == ("done", 1, 0, 0)
    (made,) = PreferencePair.objects.all()
    assert (made.prompt.messages[0]["content"], made.chosen.text) == ("Why?", "So.")


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: data])
def test_gzip_is_unpacked_whatever_its_name(project, receive, pack):
    job = done(receive(pack(jsonl(map(pair, range(5))).encode()), "data.txt"))
    assert counts(job) == ("done", 5, 0, 0)


def test_parquet_comes_in_by_rows_with_messages_and_nothing_that_is_null(
    project, receive
):
    chat = {
        "prompt": [{"role": "user", "content": "Hi", "name": None}],
        "chosen": [{"role": "assistant", "content": "A", "name": "x"}],
        "rejected": [{"role": "assistant", "content": "B", "name": None}],
        "score": 1.5,
    }
    rows = [
        chat | {"score": float(n), "prompt": [chat["prompt"][0] | {"content": f"Q{n}"}]}
        for n in range(10)
    ]
    job = done(receive(table(rows), "train.parquet"))
    assert counts(job) == ("done", 10, 0, 0)
    first = PreferencePair.objects.order_by("pk")[0]
    assert first.prompt.messages == [{"role": "user", "content": "Q0"}]
    assert first.chosen.messages == [{"role": "assistant", "content": "A", "name": "x"}]


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: tarred(files, "w")])
def test_a_dataset_folder_is_read_file_by_file(project, receive, pack):
    files = {
        "set/README.md": b"# About",
        "set/dataset_info.json": b'{"prompt": "no row"}',
        "set/.cache/x.jsonl": jsonl([pair(90)]).encode(),
        "set/data/train-00000.parquet": table([pair(1), pair(2)]),
        "set/data/train-00001.jsonl": (jsonl([pair(3)]) + "{oops\n").encode(),
        "set/more.csv": b"prompt,chosen,rejected\na,b,c\n",
        "set/list.json": json.dumps([pair(4)]).encode(),
        "set/utf16.jsonl": "{}".encode("utf-16"),
    }
    job = done(receive(pack(files), "set.bin"), "pairs")
    assert counts(job) == ("done", 5, 0, 2)
    told = {(fault.part, fault.line) for fault in job.faults.all()}
    assert told == {("set/data/train-00001.jsonl", 2), ("set/utf16.jsonl", 0)}


def test_what_datasets_saved_to_disk_comes_in(project, receive, tmp_path):
    """Without what `map` kept beside it once."""
    from datasets import Dataset, DatasetDict, load_from_disk

    rows = [pair(n) for n in range(7)]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "set")
    load_from_disk(tmp_path / "set").map(lambda row: {"chosen": "mapped"})
    assert list((tmp_path / "set").rglob("cache-*.arrow"))
    files = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in (tmp_path / "set").rglob("*")
        if path.is_file()
    }
    assert counts(done(receive(zipped(files)))) == ("done", 7, 0, 0)


# --- What is wrong with files ------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"PK\x03\x04 no archive", "archive can't be read"),
        (zipped({"readme.txt": b"x"}), "No file in it"),
        (zipped({"xl/workbook.xml": b"x", "a.csv": b"x"}), "Excel"),
        (b"\xd0\xcf\x11\xe0" + b"x" * 600, "workbook"),
        (b"PAR1 no table PAR1", "Parquet file can't be read"),
        ("{}".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_says_so_before_and_after_it_is_started(
    receive, data, named
):
    job = receive(data)
    with pytest.raises(ImportRefused) as refused:
        import_jobs.preview(job)
    assert named in refused.value.message
    job = done(job)
    assert job.state == "failed" and named in job.error


@pytest.mark.parametrize("cut", [40, 200])
def test_a_damaged_archive_gives_what_came_before(project, receive, cut):
    packed = gzip.compress(jsonl(pair(n) for n in range(2000)).encode())
    job = done(receive(packed[:-cut], "pairs.jsonl.gz"), "pairs")
    assert job.state == "done" and 0 < job.accepted < 2000
    assert "damaged" in job.faults.get().reason or job.rejected == 2


def test_a_damaged_part_of_a_zip_never_costs_the_others(project, receive):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.jsonl", jsonl([pair(71)]))
        archive.writestr("b.parquet", table([pair(72)]))
        archive.writestr("c.jsonl", jsonl([pair(73)]))
    data = (
        file.getvalue().replace(b"Yes 71", b"Yes 99", 1).replace(b"Yes 72", b"No! 72")
    )
    job = done(receive(data), "pairs")
    assert counts(job) == ("done", 1, 0, 2)
    assert [fault.part for fault in job.faults.all()] == ["a.jsonl", "b.parquet"]


def test_a_parquet_file_comes_in_gzipped(project, receive):
    job = done(receive(gzip.compress(table([pair(1)])), "x.parquet.gz"))
    assert counts(job) == ("done", 1, 0, 0)


def test_a_bomb_is_let_go_at_the_bound(project, receive, settings):
    settings.IMPORT_MAX_UNPACKED_BYTES = 100_000
    line = jsonl([pair(1)]).encode()
    bomb = line + b" " * 5_000_000 + b"\n" + line
    for data in (
        gzip.compress(bomb),
        zipped({"a.jsonl": bomb}),
        tarred({"a.jsonl": bomb}),
    ):
        assert len(data) < 20_000
        job = done(receive(data), "pairs")
        assert job.state == "done" and job.rejected >= 1
        assert any("larger than 100000" in f.reason for f in job.faults.all())


def test_names_in_archives_are_never_written_to_and_links_not_followed(
    project, receive, tmp_path
):
    secret = tmp_path / "secret.jsonl"
    secret.write_text(jsonl([pair(66)]))
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.jsonl")
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
        out = tarfile.TarInfo("../../../../tmp/out.parquet")
        data = table([pair(1)])
        out.size = len(data)
        archive.addfile(out, io.BytesIO(data))
    before = set(os.listdir(tmp_path))
    job = done(receive(file.getvalue()))
    assert counts(job) == ("done", 0, 0, 0) or job.state == "failed"
    inside = {"a/../../../x.parquet": data, "/abs.jsonl": jsonl([pair(2)])}
    job = done(receive(zipped(inside)), "pairs")
    assert job.accepted <= 2
    assert set(os.listdir(tmp_path)) == before
    assert not PreferencePair.objects.filter(chosen__text="Yes 66.").exists()


def test_too_many_files_are_refused(receive, monkeypatch):
    monkeypatch.setattr(parts, "MAX_PARTS", 3)
    job = receive(zipped({f"{n}.jsonl": jsonl([pair(n)]) for n in range(5)}))
    with pytest.raises(ImportRefused, match="more than 3"):
        import_jobs.preview(job)


# --- On the server -----------------------------------------------------------------------
def test_a_folder_on_the_server_is_read_where_it_lies_and_stays(
    project, manager, sent, settings, tmp_path
):
    root = tmp_path / "imports"
    (root / "set" / "data").mkdir(parents=True)
    (root / "set" / "data" / "a.jsonl").write_text(jsonl([pair(1)]))
    outside = tmp_path / "outside.jsonl"
    outside.write_text(jsonl([pair(2)]))
    (root / "link.jsonl").symlink_to(outside)
    (root / "set" / "link.jsonl").symlink_to(outside)
    with pytest.raises(ImportRefused, match="no folder"):
        import_jobs.from_server(project, manager, "set")
    settings.IMPORT_DIR = str(root)
    for name in (
        "../outside.jsonl",
        str(outside),
        "link.jsonl",
        "",
        ".",
        "nope",
        "a\0b",
    ):
        with pytest.raises(ImportRefused, match="no such file"):
            import_jobs.from_server(project, manager, name)
    job = done(import_jobs.from_server(project, manager, "/set/"))
    assert counts(job) == ("done", 1, 0, 0)
    assert (root / "set" / "data" / "a.jsonl").exists()


# --- Stopping and going on ---------------------------------------------------------------
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


@pytest.mark.parametrize("where", ["chunks", "temporary_file_path"])
def test_an_upload_that_fills_the_disk_is_refused_and_removed(
    project, manager, settings, tmp_path, monkeypatch, where
):
    settings.IMPORTS_DIR = tmp_path
    file = SimpleUploadedFile("f.jsonl", b'{"prompt": "one"}\n')
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(file, where, Mock(side_effect=full), raising=False)
    with pytest.raises(ImportRefused, match="No space left"):
        import_jobs.receive(project, manager, file)
    assert not ImportJob.objects.exists()
    assert not list(tmp_path.iterdir())


def test_an_upload_that_gets_no_row_is_removed(
    receive, monkeypatch, settings, tmp_path
):
    settings.IMPORTS_DIR = tmp_path
    monkeypatch.setattr(import_jobs, "preview", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        receive(jsonl([pair(1)]))
    assert not ImportJob.objects.exists()
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_is_told_and_can_be_gone_on_from(project, receive, monkeypatch):
    job = receive(jsonl(map(pair, range(3))))
    with monkeypatch.context() as broken:
        broken.setattr(storing, "store", lambda *args: 1 / 0)
        assert done(job).state == "failed"
    assert "log" in job.error
    assert counts(done(job)) == ("done", 3, 0, 0)


def test_reasons_are_bounded_and_all_bad_rows_counted(receive, monkeypatch):
    monkeypatch.setattr(importing, "MAX_REPORTED", 5)
    monkeypatch.setattr(importing, "PAIR_BATCH", 4)
    job = done(receive("{}\n" * 12), "pairs")
    assert counts(job) == ("done", 0, 0, 12)
    assert ImportFault.objects.count() == 5


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_one_takes_the_job(project, receive, monkeypatch):
    job = receive(jsonl(map(pair, range(300))))
    ImportJob.objects.filter(pk=job.pk).update(state="queued")
    together(*[lambda: import_jobs.run(job.pk)] * 3)
    job.refresh_from_db()
    assert counts(job) == ("done", 300, 0, 0)
    assert job.epoch == 1 and PreferencePair.objects.count() == 300


# --- Size --------------------------------------------------------------------------------
def test_a_large_file_is_never_in_memory(project, receive, monkeypatch):
    """40 MB of rows; what is stored is left out, as it is the reading that could grow."""
    row = json.dumps(pair(1) | {"filler": "x" * 2000}) + "\n"
    job = receive(row * 20_000)
    assert job.size > 40_000_000
    batches = []
    monkeypatch.setattr(
        storing,
        "store",
        lambda _project, _kind, batch: (
            batches.append(len(batch)) or storing.Stored(len(batch), 0)
        ),
    )
    import_jobs.start(job)
    tracemalloc.start()
    import_jobs.run(job.pk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    job.refresh_from_db()
    assert counts(job) == ("done", 20_000, 0, 0)
    assert max(batches) == importing.PAIR_BATCH and sum(batches) == 20_000
    assert peak < 12 * 1024 * 1024


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from(
        [
            b"",
            b"PK\x03\x04",
            b"PAR1",
            b"\x1f\x8b",
            b"ARROW1",
            b"[",
            b"\xff\xff\xff\xff",
            b"BZh9",
            b"\xfd7zXZ\0",
        ]
    ),
    pack=st.sampled_from(
        [
            bytes,
            gzip.compress,
            lambda d: zipped({"a.json": d, "b.parquet": d}),
            lambda d: tarred({"a.csv": d}),
        ]
    ),
)
def test_file_soup_is_done_or_failed_never_stuck(db, data, start, pack):
    project = make_project()
    upload = SimpleUploadedFile("x", pack(start + data))
    job = import_jobs.receive(project, make_user(), upload)
    ImportJob.objects.filter(pk=job.pk).update(state="queued")
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert job.state in ("done", "failed")
    assert job.error == "" or "log" not in job.error, job.error

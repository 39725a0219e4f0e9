"""Files that cannot be read, damaged ones, bombs, uploads that fail."""

import errno
import gzip
import io
import os
import tarfile
import zipfile
from unittest.mock import Mock

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import import_jobs, importing
from annotation.errors import ImportRefused
from annotation.files import parts
from annotation.models import ImportFault, ImportJob, PreferencePair
from tests.annotation.import_files import (
    counts,
    done,
    jsonl,
    pair,
    table,
    tarred,
    zipped,
)
from tests.factories import make_project, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


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


def test_reasons_are_bounded_and_all_bad_rows_counted(receive, monkeypatch):
    monkeypatch.setattr(importing, "MAX_REPORTED", 5)
    monkeypatch.setattr(importing, "PAIR_BATCH", 4)
    job = done(receive("{}\n" * 12), "pairs")
    assert counts(job) == ("done", 0, 0, 12)
    assert ImportFault.objects.count() == 5


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

"""Small files that would unpack to fill a web process, or keep it for hours."""

import gzip
import io
import tarfile
import tracemalloc

import pytest

from annotation import import_jobs
from annotation.errors import ImportRefused
from annotation.models import ImportJob
from tests.factories import make_project

pytestmark = pytest.mark.django_db
MIB = 1024**2


@pytest.fixture
def preview(tmp_path):
    """What a file's preview comes to, and the most memory it took, bytes."""

    def shown(data, kind="prompts"):
        path = tmp_path / "upload"
        path.write_bytes(data)
        job = ImportJob(project=make_project(), path=str(path), kind=kind)
        tracemalloc.start()
        try:
            return import_jobs.preview(job, kind), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return shown


LINE = b'{"prompt": "Why?"}\n'
PROMPT = ("a.jsonl", tarfile.REGTYPE, LINE.ljust(512, b"\0"), len(LINE))


def zeros(name, kind, size):
    return name, kind, bytes(size), size


def tar(*members, packed=True):
    """(name, type, content, size) of each."""
    file = io.BytesIO()
    for name, kind, content, size in members:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, size
        file.write(member.tobuf(tarfile.GNU_FORMAT) + content)
    file.write(bytes(1024))
    data = file.getvalue()
    return gzip.compress(data, compresslevel=1) if packed else data


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME]
)
def test_a_header_of_a_tar_never_fills_the_memory(preview, kind, packed):
    with pytest.raises(ImportRefused, match="a header of 50331648 bytes"):
        preview(tar(zeros("x", kind, 48 * MIB), PROMPT, packed=packed))


def test_so_it_is_further_on_in_the_archive(preview):
    shown, most = preview(tar(PROMPT, zeros("x", tarfile.XHDTYPE, 48 * MIB)))
    assert (shown.n_good, shown.n_bad) == (1, 1)
    assert "a header of 50331648 bytes" in str(shown.items[1][1])
    assert most < 16 * MIB


def test_what_a_tar_passes_over_counts_as_unpacked(preview, settings):
    more = ("c.jsonl", *PROMPT[1:])
    data = tar(PROMPT, zeros("b.bin", tarfile.REGTYPE, 48 * MIB), more)
    assert preview(data)[0].n_good == 2
    settings.IMPORT_MAX_UNPACKED_BYTES = 40 * MIB
    shown, _most = preview(data)
    assert shown.n_good == 1
    assert "larger than 41943040 bytes" in str(shown.items[1][1])


def test_a_preview_holds_few_of_very_long_rows(preview):
    """Of two hundred, of empty lists at that, a web process would have had 20 GB."""
    row = b'{"prompt": "q", "chosen": "a", "rejected": "b", "x": [%s0]}\n'
    shown, most = preview(row % (b"0," * MIB) * 30, "pairs")
    # 8 MiB are over within the fourth row of 2 MiB, and what a buffer reads ahead.
    assert 3 <= shown.n_good <= 5 and not shown.n_bad and not shown.is_all
    assert most < 128 * MIB

"""Small files that would unpack to fill a web process, or keep it for hours."""

import gzip
import io
import struct
import tarfile
import tracemalloc
from unittest.mock import Mock, patch

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


def listing(members, *, told=None, wide=False):
    """A zip that lists so many empty members; `told`: how many its end says they are;
    `wide`: the end in its form for more than 65535."""
    one = struct.pack("<4s4B4H3L5H2L", b"PK\x01\x02", *[0] * 11, 8, *[0] * 6)
    data = b"PK\x03\x04".ljust(64, b"\0")
    start, size = len(data), members * (len(one) + 8)
    data += b"".join(one + b"%06x.m" % n for n in range(members))
    count = members if told is None else told
    if wide:
        end = len(data)
        big = (44, 45, 45, 0, 0, count, count, size, start)
        data += struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *big)
        data += struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
        count, size, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    return data + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, 0
    )


@pytest.mark.parametrize(
    ("members", "ends"),
    [
        (20_001, {}),
        (20_001, {"wide": True}),
        # 54 bytes each, so that 94815 of them are above 20000 times 256 bytes.
        (94_815, {"told": 1}),
        (94_815, {"told": 1, "wide": True}),
    ],
)
def test_the_directory_of_a_zip_never_fills_the_memory(preview, members, ends):
    """A million members of 47 MB took 444 MiB and half a minute of a web process."""
    data = listing(members, **ends)
    with pytest.raises(ImportRefused, match="No file in it"):
        preview(listing(50, **ends | {"told": 50}))
    listed = Mock(side_effect=AssertionError("read"))
    with patch("zipfile.ZipFile", listed), pytest.raises(ImportRefused, match="2000"):
        preview(data)


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


def test_a_preview_holds_few_of_very_long_rows(preview, monkeypatch):
    """Of two hundred, of empty lists at that, a web process would have had 20 GB."""
    assert import_jobs.PREVIEW_BYTES == 8 * MIB
    # An eighth of all sizes: what memory is traced takes its time.
    monkeypatch.setattr(import_jobs, "PREVIEW_BYTES", MIB)
    row = b'{"prompt": "q", "chosen": "a", "rejected": "b", "x": [%s0]}\n'
    shown, most = preview(row % (b"0," * (MIB // 8)) * 30, "pairs")
    # 1 MiB is over within the fourth row of 256 KiB, and what a buffer reads ahead.
    assert 3 <= shown.n_good <= 8 and not shown.n_bad and not shown.is_all
    assert most < 32 * MIB

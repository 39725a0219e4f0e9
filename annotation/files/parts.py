"""A file, an archive or a folder as parts that hold rows; nothing is unpacked by name.

Members of an archive are read as streams. Parquet needs to jump about, so a member is
then copied to a nameless file first; no path that an archive names is ever written to.
Links and devices are never followed. What is unpacked in all is counted and bounded.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from django.utils.translation import gettext as _

from annotation.errors import ImportRefused
from annotation.files import columnar, tables
from annotation.files.faults import BadRow, Placed, Row, shown
from annotation.files.lines import (
    CHUNK,
    UNPACK_FAULTS,
    Damaged,
    Lines,
    Unpacked,
    buffered,
    is_packed,
)

MAX_PARTS = 2000
MAX_HEADER = 1024 * 1024
"""Bytes of a tar's extended header (a long name, say), which tarfile reads whole."""
MAX_LISTED = 10 * MAX_PARTS
"""Members of an archive, those without rows included."""
MAX_LISTING = 256
"""Bytes of each in a zip's directory, on the average: zipfile reads it whole and goes by
its size alone, whatever number of members the end of the file gives."""
EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
"""What a packed tar begins with, and what unpacks it."""
DATA = {".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow"}
ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Of a dataset's folder: they describe it and hold no rows."""


@dataclass(frozen=True)
class Part:
    name: str
    """Within its archive or folder; empty for a file that stands alone."""
    size: int
    """Bytes on the disk that it takes up; 0 where that is only known once it is read."""
    open: Callable[[], AbstractContextManager[BinaryIO]]
    is_apart: bool = True
    """Whether those after it can be read when it can't."""
    place: Callable[[Any], int] = lambda stream: stream.tell()
    """How many of those bytes have been read, by its stream."""


class Reading:
    """The rows of a file or folder, in the same order each time; how far it is."""

    def __init__(
        self,
        path: Path,
        *,
        most: int,
        longest: int,
        scratch: Path | None = None,
        skips: Callable[[str], bool] | None = None,
    ):
        """`most`: bytes that may be unpacked in all; `longest`: of one line; `skips`:
        which parts, by name, are passed over."""
        self._longest = longest
        self._path = path
        self._skips = skips
        self._scratch = scratch
        self._unpacked = Unpacked(most)
        self._done = 0
        self._total = max(1, _size(path))
        self._at: Callable[[], int] = lambda: 0

    @property
    def unpacked(self) -> int:
        """Bytes read so far, unpacked."""
        return self._unpacked.count

    @property
    def share(self) -> float:
        """Of what there is to read, in [0, 1]."""
        return min(1.0, (self._done + self._at()) / self._total)

    def __iter__(self) -> Iterator[Placed]:
        found = False
        with _parts(self._path, self._unpacked.most) as parts:
            try:
                for part in parts:
                    found = True
                    if self._skips is None or not self._skips(part.name):
                        yield from self._placed(part)
                    self._done += part.size or self._at()
                    self._at = lambda: 0
            except (Damaged, zipfile.BadZipFile, tarfile.TarError) as damaged:
                yield ("", 0), BadRow(str(damaged))
            except UNPACK_FAULTS as fault:
                yield (
                    ("", 0),
                    BadRow(
                        _("the archive can't be read any further: %(what)s")
                        % {"what": fault}
                    ),
                )
        if not found:
            raise ImportRefused(
                _("No file in it has rows (.jsonl, .json, .csv, .parquet or .arrow).")
            )

    def _placed(self, part: Part) -> Iterator[Placed]:
        # One file that can't be read never costs the others of its folder.
        try:
            with part.open() as stream:
                for line, row in self._rows(part, stream):
                    yield (part.name, line), row
        except ImportRefused as refused:
            if not part.name:
                raise
            yield (part.name, 0), BadRow(refused.message)
        except (Damaged, *UNPACK_FAULTS) as fault:
            if not part.is_apart or self._unpacked.is_over:
                raise
            yield (part.name, 0), BadRow(str(fault))

    def _rows(self, part: Part, stream: BinaryIO) -> Iterator[tuple[int, Row | BadRow]]:
        reader = buffered(stream, self._unpacked)
        start = reader.peek(8)[:8]
        if start.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
            limits = self._longest, self._unpacked
            with self._seekable(part, stream, reader) as file:
                if start.startswith(b"PAR1"):
                    yield from columnar.parquet_rows(file, *limits)
                else:
                    yield from columnar.arrow_rows(file, *limits)
            return
        if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            raise ImportRefused(
                _("“%(name)s” is an archive or a workbook in itself; save it as CSV.")
                % {"name": shown(part.name) or self._path.name}
            )
        self._at = _place_in(part, stream)
        lines = Lines(reader, self._longest)
        name = part.name or self._path.name
        yield from tables.text_rows(lines, _format(part.name), name=name)

    @contextmanager
    def _seekable(
        self, part: Part, stream: BinaryIO, reader: io.BufferedReader
    ) -> Iterator[BinaryIO]:
        # A file on this disk, as it is.
        if isinstance(stream, io.BufferedReader) and not is_packed(reader):
            stream.seek(0)
            self._at = _place_in(part, stream)
            yield cast(BinaryIO, stream)
            return
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            shutil.copyfileobj(reader, file)
            file.seek(0)
            self._at = _place_in(part, file)
            yield cast(BinaryIO, file)


def _place_in(part: Part, stream: Any) -> Callable[[], int]:
    """How many bytes of it have been read; a closed one has been read."""

    def place() -> int:
        try:
            return part.place(stream)
        except (ValueError, OSError):
            return 0

    return place


def _format(name: str) -> tables.TextFormat | None:
    return "csv" if name.lower().removesuffix(".gz").endswith(".csv") else None


def _is_data(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    hidden = any(piece.startswith((".", "__MACOSX")) for piece in path.parts)
    suffix = PurePosixPath(path.name.lower().removesuffix(".gz")).suffix
    # What `datasets` made of the rows once (`map`) and kept beside them: not the rows.
    is_cache = suffix == ".arrow" and path.name.startswith("cache-")
    return not (hidden or is_cache) and suffix in DATA and path.name not in ABOUT


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in _files_in(path))


def _files_in(folder: Path) -> list[Path]:
    """Files of rows below the folder, by name; no link is followed."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            file = Path(root, name)
            is_own = file.is_file() and not file.is_symlink()
            if is_own and _is_data(file.relative_to(folder).as_posix()):
                found.append(file)
        if len(found) > MAX_PARTS:
            raise _too_many()
    return found


def _too_many() -> ImportRefused:
    return ImportRefused(
        _("There are more than %(most)d files in it; import it in parts.")
        % {"most": MAX_PARTS}
    )


@contextmanager
def _parts(path: Path, most: int) -> Iterator[Iterator[Part]]:
    if path.is_dir():
        yield (
            Part(file.relative_to(path).as_posix(), file.stat().st_size, _opener(file))
            for file in _files_in(path)
        )
        return
    with path.open("rb") as stream:
        start = stream.read(512)
    # What a name says counts for nothing; how a file begins does.
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with _zip(path) as archive:
            yield _zip_parts(archive)
    elif _is_tar(path, start):
        with path.open("rb") as packed, _unpacked(packed, start) as file:
            is_packed_tar = file is not packed
            with _tar(_Counted(file, most) if is_packed_tar else file) as archive:
                yield _tar_parts(archive, packed)
    else:
        yield iter([Part("", len(start) and path.stat().st_size, _opener(path), False)])


def _opener(path: Path) -> Callable[[], AbstractContextManager[BinaryIO]]:
    return lambda: cast(AbstractContextManager[BinaryIO], path.open("rb"))


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as file:
            # Its own function: what it takes for the end of the file is what counts.
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end and (
            end[zipfile._ECD_ENTRIES_TOTAL] > MAX_LISTED  # type: ignore[attr-defined]
            or end[zipfile._ECD_SIZE] > MAX_LISTED * MAX_LISTING  # type: ignore[attr-defined]
        ):
            raise _too_many()
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, *UNPACK_FAULTS) as fault:
        raise ImportRefused(
            _("The archive can't be read: %(what)s; send it again.") % {"what": fault}
        ) from None


def _zip_parts(archive: zipfile.ZipFile) -> Iterator[Part]:
    members = [m for m in archive.infolist() if not m.is_dir() and _is_data(m.filename)]
    if any(m.filename == "xl/workbook.xml" for m in archive.infolist()):
        raise ImportRefused(_("This is an Excel workbook. Save it as CSV (UTF-8)."))
    if len(members) > MAX_PARTS:
        raise _too_many()
    for member in sorted(members, key=lambda member: member.filename):

        def open_member(member: zipfile.ZipInfo = member):
            return cast(AbstractContextManager[BinaryIO], archive.open(member))

        def place(stream: Any, member: zipfile.ZipInfo = member) -> int:
            # What its stream counts is unpacked.
            return stream.tell() * member.compress_size // max(1, member.file_size)

        size = member.compress_size
        yield Part(member.filename, size, open_member, place=place)


def _unpacked(packed: BinaryIO, start: bytes) -> Any:
    """The file itself, or unpacked on its way where it begins as a packed one."""
    for magic, opened in PACKED.items():
        if start.startswith(magic):
            return opened(packed)
    return packed


def _is_tar(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as packed, _unpacked(packed, start) as file:
            return file.read(512)[257:262] == b"ustar"
    except UNPACK_FAULTS:
        return False


class _Counted:
    """A tar's bytes as tarfile reads them, counted where it passes over them, too: what
    is no file of rows would be unpacked for hours unseen."""

    def __init__(self, file: Any, most: int):
        self._file = file
        self._unpacked = Unpacked(most)
        self.tell, self.seekable = file.tell, file.seekable

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        # Parquet goes back and forth; each place counts once.
        self._unpacked.add(max(0, self.tell() - self._unpacked.count))
        return data

    def seek(self, place: int) -> None:
        if place < self.tell():
            self._file.seek(place)
        while (ahead := place - self.tell()) > 0:
            if not self.read(min(ahead, CHUNK)):
                return


class _Member(tarfile.TarInfo):
    """None whose extended header would fill the memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        if self.type in EXTENDED and self.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def _tar(file: Any) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:", tarinfo=_Member)
    except (tarfile.TarError, Damaged, *UNPACK_FAULTS) as fault:
        raise ImportRefused(
            _("The archive can't be read: %(what)s; send it again.") % {"what": fault}
        ) from None


def _tar_parts(archive: tarfile.TarFile, packed: BinaryIO) -> Iterator[Part]:
    start = 0
    # In the archive's order: jumping back would unpack all of it again.
    for number, member in enumerate(archive):
        if number > MAX_LISTED:
            raise _too_many()
        if member.isfile() and not member.issparse() and _is_data(member.name):

            def open_member(member: tarfile.TarInfo = member):
                file = archive.extractfile(member)
                assert file is not None  # It is a regular file.
                return closing(cast(BinaryIO, file))

            def place(_stream: Any, start: int = start) -> int:
                # Packed as a whole: only the archive's own place says how far it is.
                return packed.tell() - start

            yield Part(member.name, 0, open_member, False, place)
            start = packed.tell()

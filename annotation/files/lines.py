"""Lines of a byte stream in bounded memory, unpacked where it is gzip.

A stream that breaks off in the middle (a damaged archive) gives what came before, then
`Damaged`; what is too long comes as a line without text whose number is in `too_long`.
"""

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from django.utils.translation import gettext as _

from annotation.errors import ImportRefused

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
CHUNK = 64 * 1024
UNPACK_FAULTS = (
    *(OSError, EOFError, zlib.error, RuntimeError, NotImplementedError),
    *(lzma.LZMAError, zipfile.BadZipFile),
)
"""What gzip, zipfile and tarfile raise on damaged, encrypted or odd contents."""


class Damaged(Exception):
    """The stream can't be read on; its text says why."""


class Unpacked:
    """Counts what is unpacked of one import, so that no bomb fills disk or time."""

    def __init__(self, most: int):
        self.most = most
        self.count = 0

    @property
    def is_over(self) -> bool:
        return self.count > self.most

    def add(self, count: int) -> None:
        self.count += count
        if self.is_over:
            raise Damaged(
                _("unpacked, the file is larger than %(most)d bytes; split it")
                % {"most": self.most}
            )


class _Raw(io.RawIOBase):
    """Any object with read(n) as a raw stream, its faults told as Damaged."""

    def __init__(self, stream: Any, unpacked: Unpacked):
        self._stream = stream
        self._unpacked = unpacked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except UNPACK_FAULTS as fault:
            raise Damaged(
                _("the file is damaged from here on: %(what)s; send it again")
                % {"what": fault}
            ) from None
        self._unpacked.add(len(data))
        buffer[: len(data)] = data
        return len(data)


def is_packed(reader: io.BufferedReader) -> bool:
    """Whether what `buffered` gave is unpacked on its way."""
    return isinstance(cast(Any, reader.raw)._stream, gzip.GzipFile)


def buffered(stream: BinaryIO, unpacked: Unpacked) -> io.BufferedReader:
    """With `peek`; unpacked if it begins as gzip does, whatever its name."""
    reader = io.BufferedReader(_Raw(stream, unpacked))
    if reader.peek(2)[:2] != _GZIP:
        return reader
    inner = gzip.GzipFile(fileobj=cast(BinaryIO, reader))
    return io.BufferedReader(_Raw(inner, unpacked))


class Lines:
    """Numbered lines, none longer than `longest` bytes in memory."""

    def __init__(self, stream: io.BufferedReader, longest: int):
        self._stream = stream
        self.longest = longest
        self.number = 0
        """Of the line given last."""
        self.too_long: set[int] = set()
        start = stream.peek(4)
        # Without its mark UTF-16 is known by the NULs between Latin letters.
        zeros = [place for place, byte in enumerate(start[:4]) if not byte]
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or zeros in ([0, 2], [1, 3]):
            raise ImportRefused(_("The file is UTF-16. Save it as UTF-8."))
        # Two, where a program put one before what began with one.
        while stream.peek(len(_BOM)).startswith(_BOM):
            stream.read(len(_BOM))

    def first(self) -> bytes:
        """The first byte that isn't white, still to be read; empty at the end."""
        while seen := self._stream.peek(1):
            if rest := seen.lstrip():
                # What is white before it on its line stays to be read with it.
                return rest[:1]
            self.number += self._stream.read(len(seen)).count(b"\n")
        return b""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._stream.readline(self.longest + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self.longest and not line.endswith(b"\n"):
            self.too_long.add(self.number)
            quotes = line.count(b'"')
            while line and not line.endswith(b"\n"):
                line = self._stream.readline(self.longest)
                quotes += line.count(b'"')
            # As many quotes as tell CSV whether a cell goes on after it.
            return b'"\n' if quotes % 2 else b"\n"
        return line

    def chunks(self) -> Iterator[bytes]:
        """The rest in pieces, for what has no lines."""
        while chunk := self._stream.read1(CHUNK):
            yield chunk

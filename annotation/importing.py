"""Prompts and pairs from files: good rows kept, bad ones reported, duplicates counted.

Rows come from files/ and go to storing.py in batches, so that memory stays bounded and
nobody who judges meanwhile waits long. Importing the same again changes nothing. Large
files are taken in by a worker, see import_jobs.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from django.conf import settings
from django.utils.translation import gettext as _

from annotation.batches import in_batches
from annotation.errors import ImportRefused
from annotation.files import compared, pair_reading, tables
from annotation.files.faults import BadRow, Place, Placed, Row
from annotation.files.lines import Damaged, Lines, Unpacked, buffered
from annotation.files.pair_rows import Labelled, PairRow
from annotation.files.pairing import Pairing
from annotation.files.prompt_rows import prompt_of
from annotation.models import Project
from annotation.storing import store

BATCH = 500
PAIR_BATCH = 100
"""A pair is four rows; on SQLite nobody else writes while a batch is stored."""
MAX_REPORTED = 10_000
"""Reasons kept; of a file with more bad rows the rest are only counted."""
MAX_PROMPT_LINE = 1024 * 1024
MAX_PAIR_LINE = tables.MAX_CELL

Kind = Literal["prompts", "pairs"]
Item = tuple[Place, Any]
"""Where it is and the Messages, PairRow, Labelled or BadRow there."""


@dataclass(frozen=True)
class Rejected:
    line: int
    """From 1; for a CSV record of several lines, where it starts."""
    reason: str


@dataclass
class ImportReport:
    accepted: int = 0
    labelled: int = 0
    """Of the accepted, answers that make no pair."""
    duplicates: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rejected_more: int = 0
    """Rejected beyond MAX_REPORTED."""

    @property
    def rows(self) -> int:
        return self.accepted + self.duplicates + len(self.rejected) + self.rejected_more


def import_prompts(
    project: Project, stream: BinaryIO, format: str | None = None
) -> ImportReport:
    """Import the good prompts of JSONL or CSV. Raises ImportRefused.

    Without `format`, a file that begins with { or [ is JSON, else CSV. A prompt that
    the file or the project already has is counted as a duplicate.
    """
    if format not in (None, "jsonl", "csv"):
        raise ImportRefused(
            _("Prompts come as jsonl or csv, not “%(format)s”.") % {"format": format}
        )
    return _import(project, stream, format, "prompts", MAX_PROMPT_LINE)


def import_pairs(
    project: Project, stream: BinaryIO, format: str | None = None
) -> ImportReport:
    """The same for pairs, each row of any of pair_reading's formats. Raises ImportRefused."""
    return _import(project, stream, format, "pairs", MAX_PAIR_LINE)


def lines_of(stream: BinaryIO, longest: int) -> Lines:
    """Its lines, unpacked, none longer than `longest` bytes. Raises ImportRefused."""
    unpacked = Unpacked(settings.IMPORT_MAX_UNPACKED_BYTES)
    try:
        return Lines(buffered(stream, unpacked), longest)
    except Damaged as damaged:
        raise ImportRefused(str(damaged)) from None


def _import(
    project: Project, stream: BinaryIO, format: Any, kind: Kind, longest: int
) -> ImportReport:
    lines = lines_of(stream, longest)
    needs = "prompt" if kind == "prompts" else ""
    rows = ((("", n), row) for n, row in tables.text_rows(lines, format, needs))
    report = ImportReport()
    items = items_of(kind, opened(rows))
    for batch in in_batches(items, batch_size(kind)):
        good = []
        for (_part, line), item in batch:
            if not isinstance(item, BadRow):
                good.append(item)
            elif len(report.rejected) < MAX_REPORTED:
                report.rejected.append(Rejected(line, str(item)))
            else:
                report.rejected_more += 1
        stored = store(project, kind, good)
        report.accepted += stored.accepted
        report.duplicates += stored.duplicates
        report.labelled += stored.labelled
    report.rejected.sort(key=lambda bad: bad.line)
    return report


def batch_size(kind: str) -> int:
    return BATCH if kind == "prompts" else PAIR_BATCH


# --- Rows as prompts or pairs ------------------------------------------------------------
def opened(rows: Iterable[Placed]) -> Iterator[Placed]:
    """Other tools' records as the flat rows in them; what a mapping then names."""
    for place, row in rows:
        # A pair's columns stay as they are, whatever people said of it besides.
        if isinstance(row, BadRow) or pair_reading.told_apart(row):
            yield place, row
        else:
            yield from ((place, flat) for flat in compared.opened(row))


def items_of(kind: str, rows: Iterable[Placed]) -> Iterator[Item]:
    """What each row means, the same each time; two labelled answers may be one pair, and
    a tie is two of them."""
    return _prompt_items(rows) if kind == "prompts" else _pair_items(rows)


def _prompt_items(rows: Iterable[Placed]) -> Iterator[Item]:
    for place, row in rows:
        try:
            yield place, row if isinstance(row, BadRow) else prompt_of(row)
        except BadRow as bad:
            yield place, bad


def _pair_items(rows: Iterable[Placed]) -> Iterator[Item]:
    pairing = Pairing()
    for place, row in rows:
        for item in _read(row):
            if isinstance(item, Labelled):
                # What waits too long for its partner, or has none, is given back alone.
                yield from pairing.put(place, item)
            else:
                yield place, item
    yield from pairing.leave()


def _read(row: Row | BadRow) -> list[PairRow | Labelled | BadRow]:
    try:
        if isinstance(row, BadRow):
            return [row]
        format = pair_reading.told_apart(row)
        if format in ("trl", "llamafactory"):
            compared.refuse_overruled(row)
        rows = [row] if format else compared.settled(row)
        return [pair_reading.read(one) for one in rows]
    except BadRow as bad:
        return [bad]

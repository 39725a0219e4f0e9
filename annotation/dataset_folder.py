"""A project's data as a folder that `datasets.load_dataset` reads, streamed as a zip.

    README.md                      the card: counts, funnel, agreement, bias, rules, sha256
    data/train-00000.parquet       the pairs (or test-00000: prompts held out to measure)
    judgments/…, prompts/…         the other configurations of the dataset
    llamafactory/…                 the same pairs for LLaMA-Factory, with dataset_info.json

The card comes last in the archive: it names the hash of every other file. A page of
rows is in memory at a time, and no transaction stays open between pages.
"""

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from django.db.models import QuerySet

from annotation import export_filters, export_rows, exporting
from annotation.batches import in_batches
from annotation.dataset_card import card
from annotation.export_filters import Wanted
from annotation.files import columns
from annotation.files.faults import Row
from annotation.files.writing import Sink, written
from annotation.models import Project


@dataclass
class Made:
    """A file of the folder, once it is written."""

    name: str
    sha256: str = ""
    size: int = 0
    rows: int = 0


class _Counted:
    """Rows as they pass by."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row


def folder(
    project: Project,
    asked: Wanted,
    within: QuerySet | None = None,
    *,
    with_names: bool = False,
) -> Iterator[bytes]:
    """The bytes of the zip archive."""
    sink = Sink()
    made: list[Made] = []
    left_out: Counter[str] = Counter()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, rows, named in _tables(project, asked, within, with_names):
            counted = _Counted(rows)
            yield from _file(
                archive, sink, made, name, written(counted, named, "parquet")
            )
            made[-1].rows = counted.count
        pairs = export_filters.pairs(project, asked, within)
        lines = _Counted(exporting.sharegpt_rows(pairs, left_out))
        content = (exporting.line(row).encode() for row in lines)
        yield from _file(archive, sink, made, LLAMAFACTORY_PAIRS, content)
        made[-1].rows = lines.count
        info = json.dumps(LLAMAFACTORY, indent=2).encode() + b"\n"
        yield from _file(archive, sink, made, "llamafactory/dataset_info.json", [info])
        is_round = within is not None
        text = card(project, asked, made, left_out, is_round=is_round).encode()
        yield from _file(archive, sink, [], "README.md", [text])
    yield sink.taken()


def holds_no_new_pair(name: str) -> bool:
    """Whether a part of such a folder holds something else than pairs, or the same ones
    again. By its own folder's and its own name, as a zip may have a folder around."""
    return _short(name) in NO_PAIRS


def holds_no_prompt(name: str) -> bool:
    """The same for prompts: LLaMA-Factory's rows say them in words of their own."""
    return _short(name) == LLAMAFACTORY_PAIRS


def _short(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[-2:])


LLAMAFACTORY_PAIRS = "llamafactory/pairs.jsonl"
NO_PAIRS = (
    "judgments/judgments-00000.parquet",
    "prompts/prompts-00000.parquet",
    LLAMAFACTORY_PAIRS,
)
LLAMAFACTORY = {
    "tiebreak": {
        "file_name": "pairs.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
        },
    }
}


def _tables(
    project: Project, asked: Wanted, within: QuerySet | None, with_names: bool
) -> Iterator[tuple[str, Iterable[Row], columns.Columns]]:
    """(name, rows, columns) of each Parquet file; the pairs by what they are for."""
    pairs = export_filters.pairs(project, asked, within)
    train = pairs.filter(prompt__is_held_out=False)
    test = pairs.filter(prompt__is_held_out=True)
    if asked == Wanted() and within is None:
        # Nothing was asked: what trains, and beside it what measures.
        test = export_filters.pairs(project, Wanted(which="held_out"))
    has_test = test.exists()
    if has_test:
        yield "data/test-00000.parquet", export_rows.pair_table(test), columns.PAIRS
    # Without rows only where there would be no file of pairs at all.
    if train.exists() or not has_test:
        yield "data/train-00000.parquet", export_rows.pair_table(train), columns.PAIRS
    judgments = export_filters.judgments(project, asked)
    yield (
        "judgments/judgments-00000.parquet",
        export_rows.judgment_rows(judgments, with_names=with_names),
        columns.JUDGMENTS,
    )
    prompts = export_filters.prompts(project, Wanted())
    yield (
        "prompts/prompts-00000.parquet",
        export_rows.prompt_rows(prompts),
        columns.PROMPTS,
    )


def _file(
    archive: zipfile.ZipFile,
    sink: Sink,
    made: list[Made],
    name: str,
    content: Iterable[bytes],
) -> Iterator[bytes]:
    """Write one file, giving the archive's bytes on; what it came to goes to `made`."""
    about, digest = Made(name), hashlib.sha256()
    with archive.open(name, "w", force_zip64=True) as file:
        for pieces in in_batches(content, 50):
            piece = b"".join(pieces)
            digest.update(piece)
            about.size += len(piece)
            file.write(piece)
            yield sink.taken()
    about.sha256 = digest.hexdigest()
    made.append(about)
    yield sink.taken()

"""Prompts and pairs from files: good rows kept, bad ones reported, duplicates counted.

Rows come from files/; here they are stored in batches, so that memory stays bounded and
nobody who judges meanwhile waits long. Importing the same again changes nothing: a
prompt is known by the hash of its messages, a pair by that of its content. Large files
are taken in by a worker, see import_jobs.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _

from annotation import exporting, project_settings, texts
from annotation.batches import in_batches
from annotation.errors import ImportRefused
from annotation.files import pair_reading, tables
from annotation.files.faults import BadRow, Messages, Row
from annotation.files.lines import Damaged, Lines, Unpacked, buffered
from annotation.files.messages import is_plain, plain
from annotation.files.pair_rows import Labelled, PairRow, content_sha256
from annotation.files.pairing import Pairing
from annotation.files.prompt_rows import prompt_of
from annotation.models import Completion, PreferencePair, Project, Prompt

BATCH = 500
PAIR_BATCH = 100
"""A pair is four rows; on SQLite nobody else writes while a batch is stored."""
MAX_REPORTED = 10_000
"""Reasons kept; of a file with more bad rows the rest are only counted."""
MAX_PROMPT_LINE = 1024 * 1024
MAX_PAIR_LINE = 4 * 1024 * 1024

Kind = Literal["prompts", "pairs"]
Place = tuple[str, int]
Item = tuple[Place, Any]
"""Where it is (part of an archive, line) and the Messages, PairRow or BadRow there."""


@dataclass(frozen=True)
class Rejected:
    line: int
    """From 1; for a CSV record of several lines, where it starts."""
    reason: str


@dataclass
class ImportReport:
    accepted: int = 0
    duplicates: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rejected_more: int = 0
    """Rejected beyond MAX_REPORTED."""

    @property
    def rows(self) -> int:
        return self.accepted + self.duplicates + len(self.rejected) + self.rejected_more


@dataclass(frozen=True)
class Stored:
    accepted: int
    duplicates: int


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
    for batch in in_batches(items_of(kind, rows), batch_size(kind)):
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
    report.rejected.sort(key=lambda bad: bad.line)
    return report


def batch_size(kind: str) -> int:
    return BATCH if kind == "prompts" else PAIR_BATCH


# --- Rows as prompts or pairs ------------------------------------------------------------
def items_of(kind: str, rows: Iterable[tuple[Place, Row | BadRow]]) -> Iterator[Item]:
    """What each row means, the same each time; two labelled answers may be one pair."""
    return _prompt_items(rows) if kind == "prompts" else _pair_items(rows)


def _prompt_items(rows: Iterable[tuple[Place, Row | BadRow]]) -> Iterator[Item]:
    for place, row in rows:
        try:
            yield place, row if isinstance(row, BadRow) else prompt_of(row)
        except BadRow as bad:
            yield place, bad


def _pair_items(rows: Iterable[tuple[Place, Row | BadRow]]) -> Iterator[Item]:
    pairing = Pairing()
    for place, row in rows:
        try:
            item = row if isinstance(row, BadRow) else pair_reading.read(row)
        except BadRow as bad:
            item = bad
        if isinstance(item, Labelled):
            yield from pairing.put(place, item)
        else:
            yield place, item
    yield from pairing.leave()


# --- Storing ------------------------------------------------------------------------------
def store(project: Project, kind: str, batch: list[Any]) -> Stored:
    """Store what is new of a batch; the caller may hold a transaction around it."""
    if not batch:
        return Stored(0, 0)
    with transaction.atomic():
        # Two imports at once take turns here, so that what each reports is exact.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        if kind == "prompts":
            return _store_prompts(project, batch)
        return _store_pairs(project, batch)


def is_held_out(sha256: str, share: float) -> bool:
    """Whether the prompt of this hash measures: the same on every machine, for ever.

    By the hash's last digits: the stock takes prompts in the order of the first ones,
    and by those the prompts set aside would all be judged before any that trains.
    """
    return int(sha256[-13:], 16) / 16**13 < share


def _store_prompts(project: Project, batch: list[Messages]) -> Stored:
    by_sha = _by_sha(batch, texts.sha256_of)
    known = Prompt.objects.filter(project=project, sha256__in=by_sha)
    # What so far only stood before an imported pair, or came with gold, is now asked of
    # the policy too.
    idle = known.filter(is_asked=False)
    woken = idle.update(is_asked=True, is_gold=False)
    accepted = woken + len(_made_prompts(project, by_sha, is_asked=True))
    return Stored(accepted, len(batch) - accepted)


def _by_sha(batch: list[Any], sha256_of: Any) -> dict[str, Any]:
    """{hash: the first with it}, in the batch's order."""
    found: dict[str, Any] = {}
    for one in batch:
        found.setdefault(sha256_of(one), one)
    return found


def _made_prompts(
    project: Project, by_sha: dict[str, Messages], *, is_asked: bool
) -> list[Prompt]:
    """Rows for those of the hashes that the project has no prompt of."""
    known = set(
        Prompt.objects.filter(project=project, sha256__in=by_sha).values_list(
            "sha256", flat=True
        )
    )
    share = project_settings.of(project).held_out_share
    return Prompt.objects.bulk_create(
        Prompt(
            project=project,
            messages=messages,
            sha256=sha256,
            is_held_out=is_held_out(sha256, share),
            is_asked=is_asked,
        )
        for sha256, messages in by_sha.items()
        if sha256 not in known
    )


def _store_pairs(project: Project, batch: list[PairRow]) -> Stored:
    new = _by_sha(batch, lambda pair: pair.sha256)
    for sha256 in _known_pairs(project, new):
        new.pop(sha256, None)
    asked = _by_sha([pair.prompt for pair in new.values()], texts.sha256_of)
    _made_prompts(project, asked, is_asked=False)
    prompts = {
        prompt.sha256: prompt
        for prompt in Prompt.objects.filter(project=project, sha256__in=asked)
    }
    rows = [(prompts[texts.sha256_of(pair.prompt)], pair) for pair in new.values()]
    answers = Completion.objects.bulk_create(
        _completion(prompt, messages)
        for prompt, pair in rows
        for messages in (pair.chosen, pair.rejected)
    )
    PreferencePair.objects.bulk_create(
        PreferencePair(
            project=project,
            prompt=prompt,
            kind=PreferencePair.Kind.IMPORTED,
            chosen=answers[2 * place],
            rejected=answers[2 * place + 1],
            weight=pair.weight,
            extra={"format": pair.format, "kept": pair.kept},
            content_sha256=pair.sha256,
        )
        for place, (prompt, pair) in enumerate(rows)
    )
    return Stored(len(new), len(batch) - len(new))


def _completion(prompt: Prompt, messages: Messages) -> Completion:
    """Its html is left empty: pages render it when it is first looked at, as rendering
    a hundred thousand answers that nobody may ever open takes minutes."""
    is_one = len(messages) == 1 and is_plain(messages)
    return Completion(
        prompt=prompt,
        source=Completion.Source.IMPORTED,
        text="\n\n".join(filter(None, map(plain, messages))),
        messages=None if is_one else messages,
    )


def _known_pairs(project: Project, new: dict[str, PairRow]) -> set[str]:
    """The hashes that a pair of the project has: imported, or judged or repaired here and
    exported."""
    pairs = PreferencePair.objects.filter(project=project)
    known = set(
        pairs.filter(content_sha256__in=new).values_list("content_sha256", flat=True)
    )
    asked = set()
    for pair in new.values():
        asked.add(texts.sha256_of(pair.prompt))
        if pair.prompt[0]["role"] == "system" and len(pair.prompt) > 1:
            # A project's system prompt is put before what is exported.
            asked.add(texts.sha256_of(pair.prompt[1:]))
    judged = (
        pairs.filter(content_sha256="", prompt__sha256__in=asked, superseded_at=None)
        .select_related("prompt", "chosen__edited_from", "rejected__edited_from")
        .defer(*exporting.UNUSED)
        .order_by("pk")
    )
    for pair in judged.iterator(chunk_size=500):
        known.add(
            content_sha256(
                exporting.prompt_messages(pair),
                exporting.answer_messages(pair.chosen),
                exporting.answer_messages(pair.rejected),
            )
        )
    return known

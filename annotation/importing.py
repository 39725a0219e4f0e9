"""Prompts from JSONL or CSV: good rows kept, bad ones reported, duplicates counted.

A bad row never stops the rest; its line, field and fix are said. What makes a row a
prompt is in prompt_rows.py; pairs come in elsewhere.
"""

from dataclasses import dataclass, field
from typing import BinaryIO

from django.db import transaction
from django.utils.translation import gettext as _

from annotation import project_settings, texts
from annotation.errors import ImportRefused
from annotation.models import Project, Prompt
from annotation.prompt_rows import BadRow, Format, Messages, prompt_rows

BATCH = 500
MAX_REPORTED = 10_000
"""Reasons kept; of a file with more bad rows the rest are only counted."""


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


def import_prompts(
    project: Project, stream: BinaryIO, format: Format | None = None
) -> ImportReport:
    """Import what is good, in batches; memory stays bounded. Raises ImportRefused.

    Without `format`, a file whose first character is { or [ is JSONL, else CSV. A prompt
    that the file or the project already has is counted as a duplicate.
    """
    if format not in (None, "jsonl", "csv"):
        raise ImportRefused(
            _("Prompts come as jsonl or csv, not “%(format)s”.") % {"format": format}
        )
    share = project_settings.of(project).held_out_share
    report = ImportReport()
    batch: list[Messages] = []
    for line, row in prompt_rows(stream, format):
        if isinstance(row, BadRow):
            if len(report.rejected) < MAX_REPORTED:
                report.rejected.append(Rejected(line, str(row)))
            else:
                report.rejected_more += 1
            continue
        batch.append(row)
        if len(batch) == BATCH:
            _store(project, batch, share, report)
            batch = []
    if batch:
        _store(project, batch, share, report)
    return report


def is_held_out(sha256: str, share: float) -> bool:
    """Whether the prompt of this hash measures: the same on every machine, for ever.

    By the hash's last digits: the stock takes prompts in the order of the first ones,
    and by those the prompts set aside would all be judged before any that trains.
    """
    return int(sha256[-13:], 16) / 16**13 < share


def _store(
    project: Project, batch: list[Messages], share: float, report: ImportReport
) -> None:
    fresh = {texts.sha256_of(messages): messages for messages in reversed(batch)}
    with transaction.atomic():
        # Two imports at once take turns here, so that what each reports is exact.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        known = set(
            Prompt.objects.filter(project=project, sha256__in=fresh).values_list(
                "sha256", flat=True
            )
        )
        new = [
            Prompt(
                project=project,
                messages=messages,
                sha256=sha256,
                is_held_out=is_held_out(sha256, share),
            )
            for sha256, messages in reversed(fresh.items())
            if sha256 not in known
        ]
        Prompt.objects.bulk_create(new, ignore_conflicts=True)
    report.accepted += len(new)
    report.duplicates += len(batch) - len(new)

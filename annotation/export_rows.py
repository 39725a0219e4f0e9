"""What can be exported beside pairs: judgments, prompts. Its columns: files/columns.py."""

import hashlib
import hmac
from collections.abc import Iterator

from django.conf import settings
from django.db.models import QuerySet

from annotation import exporting
from annotation.batches import paged
from annotation.files.faults import Row
from annotation.judging import criteria_seen
from annotation.models import Judgment, PreferencePair, Project, Prompt
from annotation.models.comparisons import unseen


def pair_table(pairs: QuerySet[PreferencePair]) -> Iterator[Row]:
    return map(exporting.table_row, exporting.in_full(pairs))


def judgment_rows(judgments: QuerySet[Judgment], *, with_names: bool) -> Iterator[Row]:
    """As shown and as judged, the oldest first; people by pseudonym unless named."""
    sides = ("lease__first", "lease__second", "edited")
    found = judgments.select_related("comparison__prompt", "annotator", *sides)
    found = found.defer(*unseen(*sides, also=["html"]))
    for judgment in paged(found, "created_at", "pk"):
        first, second = judgment.lease.first, judgment.lease.second
        yield {
            "id": str(judgment.pk),
            "comparison": str(judgment.comparison_id),
            "purpose": judgment.comparison.purpose,
            "prompt": judgment.comparison.prompt.messages,
            "first": first.text,
            "second": second.text,
            "verdict": judgment.verdict,
            "winner": {first.pk: "first", second.pk: "second"}.get(
                judgment.winner_id, ""
            ),
            "strength": judgment.strength,
            "reasons": judgment.reasons,
            "criteria": criteria_seen(judgment),
            "comment": judgment.comment,
            "edited": judgment.edited.text if judgment.edited else "",
            "annotator": judgment.annotator.get_username()
            if with_names
            else pseudonym(judgment.project_id, judgment.annotator_id),
            "seconds": judgment.seconds,
            "created_at": judgment.created_at,
        }


def pseudonym(project_id: int, user_id: int) -> str:
    """The same for a person in all exports of a project; a secret keeps it from being
    looked up, and two projects from being laid beside each other."""
    message = f"annotator {project_id} {user_id}".encode()
    digest = hmac.new(settings.SECRET_KEY.encode(), message, hashlib.sha256)
    return f"annotator-{digest.hexdigest()[:10]}"


def prompt_rows(prompts: QuerySet[Prompt]) -> Iterator[Row]:
    for prompt in paged(prompts):
        yield {
            "id": str(prompt.pk),
            "prompt": prompt.messages,
            "held_out": prompt.is_held_out,
            "created_at": prompt.created_at,
        }


def file_name(project: Project, what: str, format: str) -> str:
    suffix = format if format in ("csv", "parquet", "zip") else "jsonl"
    is_named = what == "pairs" and format in exporting.FORMATS
    mark = f"-{format}" if is_named else ""
    return f"{project.slug}-{what}{mark}.{suffix}"

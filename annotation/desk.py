"""What an annotator's desk shows: the pair on it, the last judgment, today's count.

Reads only. Order, ids and everything that could tell a policy come from the lease.
"""

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from django.db.models import Count, F, QuerySet, Sum, Value
from django.db.models.functions import Coalesce, Least, TruncDate
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from annotation import project_settings, queries
from annotation.models import Judgment, Lease, Project
from annotation.overview import midnight
from annotation.pages import completion_html, prompt_parts
from annotation.retelling import retold
from annotation.showing import prompt_shown
from annotation.words import verdict_words
from inference.queries import readiness, stopped_on_purpose, why_refused
from inference.replicas import replicas

LONGEST_LOOK = 300.0
"""Seconds of one judgment that count as work; beyond it somebody was elsewhere."""

DAYS_LOOKED_AT = (60, 600, 6000)
"""One after the other, for as long as a row goes on before them: few do."""


@dataclass(frozen=True)
class Typed:
    """What somebody typed beside the verdict, to be shown again as it was."""

    comment: str = ""
    strength: str = ""
    reasons: tuple[str, ...] = ()
    edited_first: str | None = None
    edited_second: str | None = None
    """None where the answer was left as it is; empty where it was emptied."""
    criteria: dict[str, str] = field(default_factory=dict)
    """{criterion: first, second or tie}"""
    flag_text: str = ""

    @property
    def edited(self) -> str:
        """The improved answer, whichever it is: to be given back where it is too late."""
        return self.edited_first or self.edited_second or ""


@dataclass(frozen=True)
class Desk:
    """Everything the partial `pair` of the compare page shows."""

    lease: Lease | None
    first: SafeString | str = ""
    second: SafeString | str = ""
    system: SafeString | str = ""
    earlier: list[dict[str, Any]] = field(default_factory=list)
    question: dict[str, Any] | None = None
    last: Judgment | None = None
    last_words: str = ""
    today: int = 0
    minutes: int = 0
    """Worked today, by the time from each lease to its judgment."""
    ask_strength: bool = False
    ask_reasons: list[str] = field(default_factory=list)
    criteria: list[str] = field(default_factory=list)


def lay_out(
    user, project: Project, lease: Lease | None, last: Judgment | None = None
) -> Desk:
    """The desk with this lease on it; None where nothing waits for the user.

    `last` is the judgment made in this very request, where there was one.
    """
    last = last or last_judgment(project, user)
    today, minutes = worked_today(project, user)
    own = project_settings.of(project)
    shared: dict[str, Any] = {
        "last": last,
        "last_words": verdict_words(last.verdict) if last else "",
        "today": today,
        "minutes": minutes,
        "ask_strength": own.ask_strength,
        "ask_reasons": own.ask_reasons,
        "criteria": own.criteria,
    }
    if lease is None:
        return Desk(lease=None, **shared)
    return Desk(
        lease=lease,
        first=completion_html(lease.first),
        second=completion_html(lease.second),
        **prompt_parts(prompt_shown(lease)),
        **shared,
    )


def last_judgment(project: Project, user) -> Judgment | None:
    """The newest that stands, to be undone; whether a round has it, undoing says."""
    mine = Judgment.objects.filter(project=project, annotator=user, undone_at=None)
    return mine.only("id", "verdict").order_by("-created_at").first()


def worked_today(project: Project, user) -> tuple[int, int]:
    """Standing judgments since midnight, and the minutes they took."""
    worked = Judgment.objects.filter(
        project=project, annotator=user, created_at__gte=midnight(), undone_at=None
    ).aggregate(
        judgments=Count("pk"),
        seconds=Coalesce(Sum(Least(F("seconds"), Value(LONGEST_LOOK))), Value(0.0)),
    )
    return worked["judgments"], round(worked["seconds"] / 60)


def last_ten(project: Project, user) -> QuerySet[Judgment]:
    """The newest ten that stand, with their prompts; `can_undo` as in the history."""
    mine = queries.my_history(project, user).filter(undone_at=None)
    return (
        mine.select_related(None)
        .select_related("comparison__prompt")
        .defer(None)
        .only("verdict", "created_at", "edited_id", "comparison__prompt__messages")[:10]
    )


def days_in_a_row(project: Project, user) -> int:
    """Days up to today with a standing judgment; free weekends don't break the row."""
    today, row = timezone.localdate(), list[date]()
    for looked_at in DAYS_LOOKED_AT:
        since = midnight() - timedelta(days=looked_at)
        days = set(
            Judgment.objects.filter(
                project=project, annotator=user, created_at__gte=since, undone_at=None
            )
            .order_by()
            .annotate(day=TruncDate("created_at"))
            .values_list("day", flat=True)
            .distinct()
        )
        row = row_of(days, today)
        # A free weekend at most lies between two of its days.
        if not row or (today - row[-1]).days + 3 < looked_at:
            break
    return len(row)


def row_of(days: set[date], today: date) -> list[date]:
    """Those of `days` that lie in one row which reaches today or the last day before it,
    the newest first."""
    row, day = [], today
    first = min(days, default=today)
    while day >= first:
        if day in days:
            row.append(day)
        elif day != today and day.weekday() < 5:
            break
        day -= timedelta(days=1)
    return row


def waited_for(project: Project) -> list[str]:
    """Why no pair is there, as sentences; what is not ready comes first."""
    if not project.prompts.filter(is_gold=False).exists():
        return [_("No prompts have been imported yet. A manager can import some.")]
    if not project.prompts.filter(is_asked=True).exists():
        return [
            _(
                "Only pairs that were judged elsewhere have been imported, and the model"
                " does not answer their prompts. A manager can import them as prompts."
            )
        ]
    servers = replicas()
    stopped = stopped_on_purpose(servers)
    if stopped:
        return [retold(stopped)]
    unready = [
        _("%(part)s: %(detail)s")
        % {"part": name, "detail": retold(detail) or _("not ready")}
        for name, ok, detail in readiness(servers)
        if not ok
    ]
    if unready:
        return unready
    if why_refused(project.channel.serving, servers):
        # Which policy it is, and what is wrong with it, only managers and reviewers see.
        return [_("The model can’t be loaded as it was trained. A manager sees why.")]
    return [_("The model is writing two new answers.")]

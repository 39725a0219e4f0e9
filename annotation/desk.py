"""What an annotator's desk shows: the pair on it, the last judgment, today's count.

Reads only. Order, ids and everything that could tell a policy come from the lease.
"""

from dataclasses import dataclass, field
from typing import Any

from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from annotation import project_settings
from annotation.leasing import prompt_shown
from annotation.models import Judgment, Lease, Project
from annotation.overview import midnight
from annotation.pages import completion_html, message_turns
from annotation.retelling import retold
from annotation.words import verdict_words
from inference.queries import readiness, stopped_on_purpose


@dataclass(frozen=True)
class Typed:
    """What somebody typed beside the verdict, to be shown again as it was."""

    comment: str = ""
    strength: str = ""
    reasons: tuple[str, ...] = ()


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
    ask_strength: bool = False
    ask_reasons: list[str] = field(default_factory=list)


def lay_out(
    user, project: Project, lease: Lease | None, last: Judgment | None = None
) -> Desk:
    """The desk with this lease on it; None where nothing waits for the user.

    `last` is the judgment made in this very request, where there was one.
    """
    last = last or last_judgment(project, user)
    shared: dict[str, Any] = {
        "last": last,
        "last_words": verdict_words(last.verdict) if last else "",
        "today": judged_today(project, user),
    }
    if lease is None:
        return Desk(lease=None, **shared)
    own = project_settings.of(project)
    turns = message_turns(prompt_shown(lease))
    systems = [turn["html"] for turn in turns if turn["role"] == "system"]
    turns = [turn for turn in turns if turn["role"] != "system"]
    return Desk(
        lease=lease,
        first=completion_html(lease.first),
        second=completion_html(lease.second),
        system=systems[0] if systems else "",
        earlier=turns[:-1],
        question=turns[-1] if turns else None,
        ask_strength=own.ask_strength,
        ask_reasons=own.ask_reasons,
        **shared,
    )


def last_judgment(project: Project, user) -> Judgment | None:
    """The newest that stands, to be undone; whether a round has it, undoing says."""
    mine = Judgment.objects.filter(project=project, annotator=user, undone_at=None)
    return mine.only("id", "verdict").order_by("-created_at").first()


def judged_today(project: Project, user) -> int:
    """Standing judgments since midnight."""
    return Judgment.objects.filter(
        project=project, annotator=user, created_at__gte=midnight(), undone_at=None
    ).count()


def waited_for(project: Project) -> list[str]:
    """Why no pair is there, as sentences; what is not ready comes first."""
    if not project.prompts.filter(is_gold=False).exists():
        return [_("No prompts have been imported yet. A manager can import some.")]
    stopped = stopped_on_purpose()
    if stopped:
        return [retold(stopped)]
    unready = [
        _("%(part)s: %(detail)s")
        % {"part": name, "detail": retold(detail) or _("not ready")}
        for name, ok, detail in readiness()
        if not ok
    ]
    return unready or [_("The model is writing two new answers.")]

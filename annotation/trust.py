"""How far each annotator can be trusted: right on gold, the same on repeats, their pace.

Below the project's floor on gold their judgments wait for review; here is who is below,
which comparisons wait for that, and letting them count. Figures are for managers and
for the person alone, and those for the person are of the last full hour: told at once,
they would say which pair was gold. Leaves out handing probes out (probing.py).
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import (
    Case,
    Count,
    Exists,
    F,
    OuterRef,
    Q,
    QuerySet,
    Value,
    When,
    Window,
)
from django.db.models.functions import RowNumber
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import pace, project_settings
from annotation.access import other_reviewers
from annotation.deciding import decide_locked, locked
from annotation.errors import NotYours
from annotation.hurrying import paces
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    Probe,
    Project,
)
from annotation.project_settings import ProjectSettings
from annotation.shares import Share, share
from annotation.standing import last_full_hour, standing

WINDOWS = 3
"""The floor looks at the latest so many times `gold_least`: what somebody does now."""


@dataclass(frozen=True)
class Checks:
    """What is known of one annotator."""

    gold: Share
    """Right, of the latest gold that the floor looks at."""
    gold_seen: int
    """Gold judged in all."""
    consistent: Share
    """The same answer won (or the same verdict came) when their own pair came again."""
    too_fast: Share
    """Of their judgments among the project's latest, below their own limit of pace."""
    waiting: int
    """Judgments that wait for review and decide nothing yet."""
    is_below: bool
    """Below the floor: what they judge now waits."""


NOTHING = Checks(share(0, 0), 0, share(0, 0), share(0, 0), 0, False)


def waits(lease: Lease) -> bool:
    """Whether a judgment on this lease waits for review: its annotator is below the
    floor, and it isn't itself a measurement. One query at most."""
    own = project_settings.of(lease.project)
    if not own.gold_rate or not own.gold_floor:
        return False
    if lease.comparison.purpose not in Comparison.OFFERED:
        return False
    return is_below(lease.project_id, lease.annotator_id, own)


def is_below(project_id: int, annotator_id: int, own: ProjectSettings) -> bool:
    """Whether the annotator's share right on their latest gold is below the floor.

    The share itself, not an end of its interval: a false alarm only makes judgments
    wait, a miss lets them train. See docs/decisions.md for how often either happens.
    """
    latest = (
        Probe.objects.filter(
            project=project_id,
            annotator=annotator_id,
            gold__was_wrong=False,
            comparison__judgments__isnull=False,
            comparison__judgments__undone_at=None,
        )
        .order_by("-pk")
        .values_list(
            "gold__winner",
            "gold__expected",
            "comparison__judgments__winner",
            "comparison__judgments__verdict",
        )[: WINDOWS * own.gold_least]
    )
    rights = [
        won == winner if winner else verdict == expected
        for winner, expected, won, verdict in latest
    ]
    return _falls_short(sum(rights), len(rights), own)


def checks(
    project: Project, *, user: Any = None, before: datetime | None = None
) -> dict[str, Checks]:
    """{username: Checks} of whoever has any figure; of one user, and of what stood at
    the instant `before`, where given. Four queries."""
    own = project_settings.of(project)
    whose = {} if user is None else {"annotator": user}
    gold, seen = _gold(project, whose, before, WINDOWS * own.gold_least)
    same, repeats = _repeats(project, whose, before)
    fast, paced = _pace(project, before)
    waiting = _waiting(project, whose, before)
    names = {*seen, *repeats, *paced, *waiting}
    if user is not None:
        names &= {user.get_username()}
    return {
        name: Checks(
            gold=share(*gold[name]),
            gold_seen=seen[name],
            consistent=share(same[name], repeats[name]),
            too_fast=share(fast[name], paced[name]),
            waiting=waiting[name],
            is_below=bool(own.gold_rate) and _falls_short(*gold[name], own),
        )
        for name in names
    }


def told_to(project: Project, user: Any) -> Checks:
    """What the person may know of themselves: what was so at the last full hour."""
    known = checks(project, user=user, before=last_full_hour())
    return known.get(user.get_username(), NOTHING)


def is_told(project: Project, user: Any) -> bool:
    """Whether the compare page tells that their judgments wait: some do of those that
    stood at the last full hour. No query where the project has no floor, else one."""
    own = project_settings.of(project)
    if not own.gold_rate or not own.gold_floor:
        return False
    then = waiting_judgments(project, last_full_hour())
    return then.filter(annotator=user).exists()


def waiting_judgments(
    project: Project, at: datetime | None = None
) -> QuerySet[Judgment]:
    """Judgments that stand, or stood at that instant, and wait for review, where no
    reviewer has decided meanwhile."""
    decided = Decision.objects.filter(
        comparison=OuterRef("comparison"),
        method=Decision.Method.REVIEWER,
        superseded_at=None,
    )
    return Judgment.objects.filter(
        ~Exists(decided), standing(at), project=project, waits_for_review=True
    )


def may_let_count(project: Project, annotator: Any, by: Any) -> bool:
    """Nobody lets their own count, or the floor would not hold for reviewers; only where
    the project has no other reviewer, for else they would wait for ever."""
    return annotator != by or not other_reviewers(project, by).exists()


def let_count(project: Project, annotator: Any, by: Any) -> int:
    """Let the annotator's waiting judgments count, and decide their comparisons; how
    many. Who did so and when stays with each. Repeating it changes nothing.

    Raises NotYours (403) where they are their own and somebody else could look at them.
    """
    if not may_let_count(project, annotator, by):
        raise NotYours(
            _("These are your own judgments; another reviewer has to let them count.")
        )
    waiting = Judgment.objects.filter(
        project=project, annotator=annotator, waits_for_review=True, undone_at=None
    ).order_by("comparison_id")
    counted = 0
    for pk, comparison_id in list(waiting.values_list("pk", "comparison_id")):
        counted += _let_one_count(pk, comparison_id, by)
    return counted


def _let_one_count(pk: Any, comparison_id: int, by: Any) -> int:
    with transaction.atomic():
        comparison = locked(comparison_id)
        changed = Judgment.objects.filter(
            pk=pk, waits_for_review=True, undone_at=None
        ).update(waits_for_review=False, let_count_by=by, let_count_at=timezone.now())
        if changed:
            decide_locked(comparison)
        return changed


def _falls_short(right: int, of: int, own: ProjectSettings) -> bool:
    return of >= own.gold_least and right / of < own.gold_floor


def _on_gold() -> QuerySet[Judgment]:
    """Judgments on gold that still holds, each with whether it was `right`."""
    expected = "comparison__probe__gold__expected"
    right = Q(winner=F("comparison__probe__gold__winner")) | Q(
        winner=None, verdict=F(expected)
    )
    return Judgment.objects.filter(
        comparison__probe__gold__isnull=False,
        comparison__probe__gold__was_wrong=False,
    ).annotate(right=Case(When(right, then=Value(1)), default=Value(0)))


def _gold(
    project: Project, whose: dict[str, Any], at: datetime | None, latest: int
) -> tuple[dict[str, tuple[int, int]], Counter[str]]:
    """({username: (right, of) among the latest}, {username: judged in all}).

    By the probes' project and annotator, which are the judgments': else SQLite, which
    has no statistics, goes through all judgments of the project.
    """
    whose = {f"comparison__probe__{name}": value for name, value in whose.items()}
    by_person = {"partition_by": [F("annotator")]}
    newest = F("comparison__probe__pk").desc()
    rows = (
        _on_gold()
        .filter(standing(at), comparison__probe__project=project, **whose)
        .order_by()
        .annotate(
            rank=Window(RowNumber(), order_by=newest, **by_person),
            seen=Window(Count("pk"), **by_person),
        )
        .filter(rank__lte=latest)
        .values_list("annotator__username", "right", "seen")
    )
    gold: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    seen = Counter[str]()
    for name, right, in_all in rows:
        gold[name] = (gold[name][0] + right, gold[name][1] + 1)
        seen[name] = in_all
    return gold, seen


def _repeats(
    project: Project, whose: dict[str, Any], at: datetime | None
) -> tuple[Counter[str], Counter[str]]:
    """({username: judged alike}, {username: repeats}), where the first still stands.

    From the probes, which are few, to their judgments: never through all judgments.
    """
    again = "comparison__judgments"
    alike = Q(**{f"{again}__winner": F("repeats__winner")}) | Q(
        **{f"{again}__winner": None, f"{again}__verdict": F("repeats__verdict")}
    )
    rows = (
        Probe.objects.filter(
            standing(at, f"{again}__"),
            standing(at, "repeats__"),
            # A probe that nobody has judged yet has no judgment that was undone, either.
            **{f"{again}__isnull": False},
            **{f"{again}__{name}": value for name, value in whose.items()},
            project=project,
            repeats__isnull=False,
        )
        .order_by()
        .values_list(f"{again}__annotator__username")
        .annotate(same=Count("pk", filter=alike), repeats_seen=Count("pk"))
    )
    same, repeats = Counter[str](), Counter[str]()
    for name, alike_count, count in rows:
        same[name], repeats[name] = alike_count, count
    return same, repeats


def _pace(project: Project, at: datetime | None) -> tuple[Counter[str], Counter[str]]:
    """({username: too fast}, {username: judgments held against their own pace})."""
    fast, paced = Counter[str](), Counter[str]()
    for name, own in paces(project, at).items():
        count = pace.too_fast(own)
        if count is not None:
            fast[name], paced[name] = count, len(own)
    return fast, paced


def _waiting(
    project: Project, whose: dict[str, Any], at: datetime | None
) -> Counter[str]:
    return Counter[str](
        dict(
            waiting_judgments(project, at)
            .filter(**whose)
            .order_by()
            .values_list("annotator__username")
            .annotate(Count("pk"))
        )
    )

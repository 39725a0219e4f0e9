"""Judgments that were too fast for their annotator's own pace, of the pairs on a page.

A mark to look twice, it rejects nothing. Whose it was and how fast is for managers and
that person; other reviewers learn that there is one. What too fast means is in pace.py;
how often it happened to somebody, in trust.py.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from django.db.models import Exists, OuterRef

from annotation import pace
from annotation.models import Decision, Judgment, PreferencePair, Project, Role
from annotation.standing import standing

PACE_SAMPLE = 2000
"""Of the project's latest judgments, from which everybody's pace is taken."""


@dataclass(frozen=True)
class Hurried:
    """One judgment that came too fast; nothing but that for who may not know whose."""

    username: str = ""
    is_own: bool = False
    seconds: float | None = None
    usual: float | None = None
    """Seconds that this person usually takes for answers of this length."""


def _judged_before(path: str = "") -> Exists:
    """Whether the judgment at `path` replaces one that its annotator undid: the pair was
    read before that one, so its seconds say nothing of haste."""
    return Exists(
        Judgment.objects.filter(
            comparison=OuterRef(f"{path}comparison"),
            annotator=OuterRef(f"{path}annotator"),
            undone_at__lte=OuterRef(f"{path}created_at"),
        )
    )


def paces(project: Project, at: datetime | None = None) -> dict[str, list[float]]:
    """{username: paces of their judgments among the project's latest}; one query.
    With `at`, as it was then."""
    rows = (
        Judgment.objects.filter(~_judged_before(), standing(at), project=project)
        .order_by("-created_at")
        .values_list(
            "annotator__username",
            "seconds",
            "comparison__a__characters",
            "comparison__b__characters",
        )[:PACE_SAMPLE]
    )
    found = defaultdict(list)
    for name, seconds, a, b in rows:
        found[name].append(pace.pace(seconds, a + b))
    return found


def of_pairs(
    project: Project, pairs: Iterable[PreferencePair], role: str, user: Any
) -> dict[int, list[Hurried]]:
    """{id of a pair: its judgments that came too fast}, as this reader may know them.

    Their own pace is what it is now, however old the judgment. Pairs that a reviewer
    decided rest on no annotator's speed and are left out, as imported ones are. Two
    queries.
    """
    known = paces(project)
    limits = {name: pace.limit(own) for name, own in known.items()}
    judgments = "decision__comparison__judgments"
    rows = (
        PreferencePair.objects.filter(
            **{f"{judgments}__isnull": False, f"{judgments}__undone_at": None},
            pk__in=[pair.pk for pair in pairs],
        )
        .exclude(decision__method=Decision.Method.REVIEWER)
        .annotate(again=_judged_before(f"{judgments}__"))
        .order_by(f"{judgments}__created_at")
        .values_list(
            "pk",
            f"{judgments}__annotator__username",
            f"{judgments}__seconds",
            "decision__comparison__a__characters",
            "decision__comparison__b__characters",
            "again",
        )
    )
    found: dict[int, list[Hurried]] = defaultdict(list)
    for pk, name, seconds, a, b, again in rows:
        limit = limits.get(name)
        if again or limit is None or pace.pace(seconds, a + b) >= limit:
            continue
        is_own = name == user.get_username()
        hurried = Hurried()
        if is_own or role == Role.MANAGER:
            usual = median(known[name]) * (a + b + pace.OVERHEAD)
            hurried = Hurried(name, is_own, seconds, usual)
        found[pk].append(hurried)
    return dict(found)

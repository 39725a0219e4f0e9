"""How far a project's annotators agree, and what sways them, from its judgments.

The database counts the verdicts; what comes back is a row for each comparison that was
judged twice, and for each way in which two people's verdicts met. Leaves out the
statistics; see `agreement.py` and `shares.py`.
"""

from collections import Counter, defaultdict
from datetime import date
from typing import Any

from django.db.models import (
    Case,
    Count,
    F,
    FilteredRelation,
    IntegerField,
    Max,
    Q,
    QuerySet,
    Value,
    When,
)
from django.db.models.functions import TruncDate, TruncWeek
from django.db.models.lookups import Exact, GreaterThan

from annotation.agreement import (
    Cell,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)
from annotation.models import Comparison, Judgment, Project, Verdict
from annotation.shares import Share, share

LABELS = ("a", "b", Verdict.TIE.value, Verdict.BOTH_BAD.value)
"""Which answer won, whichever side it was shown on, or that none did."""

WEEKS = 12
"""The latest ones shown, of those in which something was judged twice."""


def agreement(project: Project) -> dict[str, Any] | None:
    """Agreement on its training comparisons; None where nothing was judged twice.

    {"alpha", "fleiss": Agreement; "pairs": [{"annotators": (one, other), "kappa"}, …],
    most comparisons first; "weeks": [{"start": its Monday, "alpha"}, …], the oldest
    first}. Two queries.
    """
    by_week = _by_week(project)
    if not by_week:
        return None
    overall: dict[tuple[int, ...], int] = defaultdict(int)
    for kinds in by_week.values():
        for labels, count in kinds.items():
            overall[labels] += count
    return {
        "alpha": krippendorff_alpha(overall),
        "fleiss": fleiss_kappa(overall),
        "pairs": _pairs(project),
        "weeks": [
            {"start": start, "alpha": krippendorff_alpha(by_week[start])}
            for start in sorted(by_week)[-WEEKS:]
        ],
    }


def _standing(project: Project) -> QuerySet[Judgment]:
    return Judgment.objects.filter(
        project=project, undone_at=None, comparison__purpose=Comparison.Purpose.TRAIN
    )


def label_of(verdict: str, winner: int | None, a: int, b: int) -> int:
    """The place in LABELS of a verdict, or of an outcome, on a comparison of a and b."""
    if winner is None:
        return LABELS.index(verdict)
    return (a, b).index(winner)


def _label(judgment: str) -> Case:
    """The place in LABELS of the verdict at the path `judgment`."""
    return Case(
        When(**{f"{judgment}winner": F("comparison__a")}, then=Value(0)),
        When(**{f"{judgment}winner": F("comparison__b")}, then=Value(1)),
        When(**{f"{judgment}verdict": Verdict.TIE}, then=Value(2)),
        default=Value(3),
        output_field=IntegerField(),
    )


def _by_week(project: Project) -> dict[date, dict[tuple[int, ...], int]]:
    """{week of the last judgment: {labels of a comparison: comparisons}}, of those that
    were judged more than once."""
    labels = {
        f"of_{name}": Count("pk", filter=Q(label=place))
        for place, name in enumerate(LABELS)
    }
    comparisons = (
        _standing(project)
        .order_by()
        .annotate(label=_label(""))
        .values("comparison")
        .annotate(
            judged=Count("pk"), week=TruncDate(TruncWeek(Max("created_at"))), **labels
        )
        .filter(judged__gt=1)
        .values_list("week", *labels)
    )
    found: dict[date, dict[tuple[int, ...], int]] = defaultdict(dict)
    for (week, *kind), count in Counter(comparisons.iterator()).items():
        found[week][tuple(kind)] = count
    return found


def _pairs(project: Project) -> list[dict[str, Any]]:
    """Cohen's kappa of every two annotators who judged the same."""
    together = (
        _standing(project)
        .order_by()
        .annotate(
            other=FilteredRelation(
                "comparison__judgments",
                condition=Q(comparison__judgments__undone_at=None),
            )
        )
        .filter(annotator__lt=F("other__annotator"))
        .annotate(label=_label(""), other_label=_label("other__"))
        .values_list(
            "annotator__username", "other__annotator__username", "label", "other_label"
        )
        .annotate(count=Count("pk"))
    )
    cells: dict[tuple[str, str], dict[Cell, int]] = defaultdict(dict)
    for one, other, label, other_label, count in together:
        cells[one, other][label, other_label] = count
    return [
        {"annotators": both, "kappa": cohen_kappa(of_both, len(LABELS))}
        for both, of_both in sorted(
            cells.items(), key=lambda item: (-sum(item[1].values()), item[0])
        )
    ]


SWAYS = ("first", "longer", "marked")
"""What may win for no good reason: the answer shown first, the longer one in characters,
the one with more markup. Of the last two, answers that differ in it count."""


def bias(project: Project) -> dict[str, Any] | None:
    """Of verdicts for one answer, the share for the one shown first, the longer, the more
    marked up: {"first", "longer", "marked": Share, "annotators": [{"username", …}, …]},
    most verdicts first. None where nobody preferred an answer. One query.
    """
    counted = {"judged": Count("pk"), "first": Count("pk", filter=Q(verdict="first"))}
    for name, measure in (("longer", "characters"), ("marked", "markup")):
        won, lost = _sides(measure)
        counted[f"{name}_of"] = Count("pk", filter=~Q(Exact(won, lost)))
        counted[name] = Count("pk", filter=Q(GreaterThan(won, lost)))
    rows = list(
        _standing(project)
        .filter(winner__isnull=False)
        .order_by()
        .values(username=F("annotator__username"))
        .annotate(**counted)
        .order_by("-judged", "username")
    )
    if not rows:
        return None
    total = {name: sum(row[name] for row in rows) for name in counted}
    return _swayed(total) | {
        "annotators": [{"username": row["username"]} | _swayed(row) for row in rows]
    }


def _sides(measure: str) -> tuple[Case, Case]:
    """The measure of the winner and of the loser of a judgment."""
    of_a, of_b = (F(f"comparison__{side}__{measure}") for side in "ab")
    a_won = Q(winner=F("comparison__a"))
    return Case(When(a_won, then=of_a), default=of_b), Case(
        When(a_won, then=of_b), default=of_a
    )


def _swayed(counts: dict[str, int]) -> dict[str, Share]:
    return {
        name: share(counts[name], counts.get(f"{name}_of", counts["judged"]))
        for name in SWAYS
    }

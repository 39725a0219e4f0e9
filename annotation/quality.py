"""How far a project's annotators agree, from its judgments.

The database counts the verdicts; what comes back is a row for each comparison that was
judged twice, and for each way in which two people's verdicts met. Leaves out the
statistics (`agreement.py`, `shares.py`) and what sways verdicts (`sways.py`).
"""

from collections import Counter, defaultdict
from datetime import date, datetime
from typing import Any

from django.db.models import (
    Case,
    Count,
    DateField,
    F,
    FilteredRelation,
    IntegerField,
    Max,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import TruncWeek

from annotation.agreement import (
    Cell,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)
from annotation.models import Comparison, Judgment, Project, Verdict
from annotation.shares import Share, share, worth
from annotation.standing import standing

LABELS = ("a", "b", Verdict.TIE.value, Verdict.BOTH_BAD.value)
"""Which answer won, whichever side it was shown on, or that none did."""

WEEKS = 12
"""The latest ones shown, of those in which something was judged twice."""


def agreement(project: Project, at: datetime | None = None) -> dict[str, Any] | None:
    """Agreement on its training comparisons; None where nothing was judged twice.
    With `at`, as it was then.

    {"alpha", "fleiss": Agreement; "pairs": [{"annotators": (one, other), "kappa"}, …],
    most comparisons first; "weeks": [{"start": its Monday, "alpha"}, …], the oldest
    first; "people": {username: Share of the verdicts of others on the same comparisons
    that theirs is the same as}}. Two queries.
    """
    by_week = _by_week(project, at)
    if not by_week:
        return None
    overall: dict[tuple[int, ...], int] = defaultdict(int)
    for kinds in by_week.values():
        for labels, count in kinds.items():
            overall[labels] += count
    cells, together = _cells(project, at)
    return {
        "alpha": krippendorff_alpha(overall),
        "fleiss": fleiss_kappa(overall),
        "pairs": _pairs(cells),
        "people": _people(cells, together),
        "weeks": [
            {"start": start, "alpha": krippendorff_alpha(by_week[start])}
            for start in sorted(by_week)[-WEEKS:]
        ],
    }


def _standing(project: Project, at: datetime | None) -> QuerySet[Judgment]:
    return Judgment.objects.filter(
        standing(at), project=project, comparison__purpose=Comparison.Purpose.TRAIN
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


def _by_week(
    project: Project, at: datetime | None
) -> dict[date, dict[tuple[int, ...], int]]:
    """{week of the last judgment: {labels of a comparison: comparisons}}, of those that
    were judged more than once."""
    labels = {
        f"of_{name}": Count("pk", filter=Q(label=place))
        for place, name in enumerate(LABELS)
    }
    comparisons = (
        _standing(project, at)
        .order_by()
        .annotate(label=_label(""))
        .values("comparison")
        .annotate(
            judged=Count("pk"),
            week=TruncWeek(Max("created_at"), output_field=DateField()),
            **labels,
        )
        .filter(judged__gt=1)
        .values_list("week", *labels)
    )
    found: dict[date, dict[tuple[int, ...], int]] = defaultdict(dict)
    for (week, *kind), count in Counter(comparisons.iterator()).items():
        found[week][tuple(kind)] = count
    return found


Cells = dict[tuple[str, str], dict[Cell, int]]
"""{(one's username, the other's): {their labels: comparisons}}"""


def _cells(project: Project, at: datetime | None) -> tuple[Cells, Counter[str]]:
    """Of every two annotators who judged the same; and for each username, summed over
    those meetings, how many others judged the comparison (see `shares.worth`)."""
    together = (
        _standing(project, at)
        .order_by()
        .annotate(
            other=FilteredRelation(
                "comparison__judgments",
                condition=standing(at, "comparison__judgments__"),
            )
        )
        .filter(annotator__lt=F("other__annotator"))
        .annotate(label=_label(""), other_label=_label("other__"))
        .values_list(
            "annotator__username", "other__annotator__username", "label", "other_label"
        )
        .annotate(count=Count("pk"), others=Sum(F("comparison__judged") - 1))
    )
    cells: Cells = defaultdict(dict)
    met = Counter[str]()
    for one, other, label, other_label, count, others in together:
        cells[one, other][label, other_label] = count
        met[one] += others
        met[other] += others
    return cells, met


def _pairs(cells: Cells) -> list[dict[str, Any]]:
    return [
        {"annotators": both, "kappa": cohen_kappa(of_both, len(LABELS))}
        for both, of_both in sorted(
            cells.items(), key=lambda item: (-sum(item[1].values()), item[0])
        )
    ]


def _people(cells: Cells, together: Counter[str]) -> dict[str, Share]:
    """One verdict met by nine others is not nine verdicts: they count as one."""
    same, of = Counter[str](), Counter[str]()
    for both, of_both in cells.items():
        alike = sum(n for (one, other), n in of_both.items() if one == other)
        for username in both:
            same[username] += alike
            of[username] += sum(of_both.values())
    return {
        name: share(same[name], of[name], worth(of[name], together[name]))
        for name in sorted(of)
    }

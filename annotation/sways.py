"""What sways verdicts, of judgments and of pairs: before training, not after.

Counted in the database, from what completions and prompts have stored of themselves
(characters, markup, script). Leaves out whether it is wrong: longer answers may well be
better. Words for a flag are in `words.py`.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db.models import Case, Count, F, Q, QuerySet, Sum, When
from django.db.models.lookups import Exact, GreaterThan

from annotation.models import Comparison, Judgment, PreferencePair, Project
from annotation.shares import Share, share, worth
from annotation.standing import standing

SWAYS = ("first", "longer", "marked", "own", "strayed")
"""What may win for no good reason, each a share of the verdicts (or pairs):

first: of all, for the answer shown first;
longer: of those whose answers differ in length, for the longer in characters;
marked: of those whose answers differ in markup, for the one with more;
own: of those where one answer alone is in the prompt's script, for that one;
strayed: of all with letters, those whose winner is in another script than the prompt.
"""

USUAL = {
    "first": (0.45, 0.55),
    "longer": (0.40, 0.60),
    "marked": (0.40, 0.60),
    "own": (0.50, 1.0),
    "strayed": (0.0, 0.05),
}
"""A share whose whole interval lies outside is flagged.

An interval that only misses one half would flag, with enough pairs, what hardly
matters: at 10,000 pairs 51 % does. Sides are drawn at random, so 55 % means that one
verdict in ten went to a side (55 − 45); beyond 60 % length or markup alone foretells
three winners in five, which a policy learns quicker than anything else. Sooner than the
other script the prompt's own should win; one winner in twenty may be meant (translate
this).
"""

NOBODYS: dict[str, Any] = {sway: share(0, 0) for sway in SWAYS} | {
    "annotators": [],
    "flags": [],
}
"""Where nobody has preferred an answer."""

Expression = Any


def bias(project: Project, at: datetime | None = None) -> dict[str, Any] | None:
    """Of the standing verdicts for one answer, everybody's and each annotator's shares:
    {sway: Share, …, "flags", "annotators": [{"username", sway: Share, …}, …]}, most
    verdicts first. None where nobody preferred an answer. With `at`, as it was then.
    One query.

    People who judge the same answers choose alike, so in everybody's shares the verdicts
    on a comparison count as one. But for `first`: sides are drawn for each person.
    """
    judgments = Judgment.objects.filter(
        project=project, comparison__purpose=Comparison.Purpose.TRAIN
    )
    found = _of_judgments(judgments, at)
    return found if found["annotators"] else None


def of_pairs(pairs: QuerySet[PreferencePair]) -> dict[str, Any]:
    """The same of exactly these pairs, and `pairs`, how many they are. Two queries.

    Everybody's shares count pairs (an edited answer against the one it improves is
    one, too), but for `first`, which imported pairs cannot tell: that and the
    annotators' count the judgments behind the pairs.
    """
    total = pairs.order_by().aggregate(n=Count("pk"), **_counts(*_of_pair("")))
    behind = pairs.order_by().values("decision__comparison")
    judged = _of_judgments(Judgment.objects.filter(comparison__in=behind))
    row = _shares(total) | {"first": judged["first"]}
    return {
        "pairs": total["n"],
        **row,
        "annotators": judged["annotators"],
        "flags": _all_flags(row, judged["annotators"]),
    }


def by_group(rows: QuerySet, group: str, pair: str) -> dict[Any, dict[str, Any]]:
    """{value of `group`: {"pairs", sway: Share, …, "flags"}} of rows that lead to a pair
    by the path `pair`. Two queries, however many groups."""
    counts = _counts(*_of_pair(f"{pair}__"))
    found = {
        row[group]: row
        for row in rows.order_by().values(group).annotate(n=Count("pk"), **counts)
    }
    judgment = f"{pair}__decision__comparison__judgments"
    counted = {f"{judgment}__undone_at": None, f"{judgment}__winner__isnull": False}
    sides = (
        rows.filter(**counted)
        .order_by()
        .values(group)
        .annotate(
            judged=Count(judgment, distinct=True),
            first=Count(
                judgment, distinct=True, filter=Q(**{f"{judgment}__verdict": "first"})
            ),
        )
    )
    for row in sides:
        found[row[group]] |= {"judged": row["judged"], "first": row["first"]}
    reports = {}
    for value, row in found.items():
        shares = _shares(row)
        reports[value] = {"pairs": row["n"], **shares, "flags": flags(shares)}
    return reports


def flags(row: dict[str, Any], username: str | None = None) -> list[dict[str, Any]]:
    """[{"sway", "share", "username"}] of the shares that are beyond what is usual."""
    return [
        {"sway": sway, "share": row[sway], "username": username}
        for sway in SWAYS
        if is_beyond(sway, row[sway])
    ]


def is_beyond(sway: str, found: Share) -> bool:
    """Whether the whole interval lies outside what is usual."""
    least, most = USUAL[sway]
    if found.low is None or found.high is None:
        return False
    return found.high < least or found.low > most


def _all_flags(row: dict[str, Any], annotators: list[dict]) -> list[dict[str, Any]]:
    each = [flags(person, person["username"]) for person in annotators]
    return flags(row) + [flag for found in each for flag in found]


def _of_judgments(
    judgments: QuerySet[Judgment], at: datetime | None = None
) -> dict[str, Any]:
    counts = {
        "judged": Count("pk"),
        "first": Count("pk", filter=Q(verdict="first")),
        **_counts(*_of_judgment()),
    }
    # `judged` of a comparison may count ties as well: then shares seem less sure.
    for sway in SWAYS[1:]:
        given = counts[f"{sway}_of"].filter
        counts[f"{sway}_together"] = Sum("comparison__judged", filter=given, default=0)
    rows = list(
        judgments.filter(standing(at), winner__isnull=False)
        .order_by()
        .values(username=F("annotator__username"))
        .annotate(**counts)
        .order_by("-judged", "username")
    )
    everybody = _shares({name: sum(row[name] for row in rows) for name in counts})
    annotators = [
        {"username": row["username"]} | _shares(row, is_one_person=True) for row in rows
    ]
    return everybody | {
        "annotators": annotators,
        "flags": _all_flags(everybody, annotators),
    }


Side = Callable[[str], Expression]


def _of_judgment() -> tuple[Side, Side, Expression]:
    """What the winner and the loser of a judgment have stored, and the prompt's script."""
    a_won = Q(winner=F("comparison__a"))

    def a(measure: str) -> F:
        return F(f"comparison__a__{measure}")

    def b(measure: str) -> F:
        return F(f"comparison__b__{measure}")

    return (
        lambda measure: Case(When(a_won, then=a(measure)), default=b(measure)),
        lambda measure: Case(When(a_won, then=b(measure)), default=a(measure)),
        F("comparison__prompt__script"),
    )


def _of_pair(path: str) -> tuple[Side, Side, Expression]:
    return (
        lambda measure: F(f"{path}chosen__{measure}"),
        lambda measure: F(f"{path}rejected__{measure}"),
        F(f"{path}prompt__script"),
    )


def _counts(won: Side, lost: Side, prompt: Expression) -> dict[str, Count]:
    counts = {}
    for name, measure in (("longer", "characters"), ("marked", "markup")):
        counts[f"{name}_of"] = ~Q(Exact(won(measure), lost(measure)))
        counts[name] = Q(GreaterThan(won(measure), lost(measure)))
    script, other = won("script"), lost("script")
    told = ~Q(Exact(script, "")) & ~Q(Exact(prompt, ""))
    at_home, other_at_home = Q(Exact(script, prompt)), Q(Exact(other, prompt))
    counts["own"] = told & ~Q(Exact(other, "")) & at_home & ~other_at_home
    counts["own_of"] = counts["own"] | (told & ~at_home & other_at_home)
    counts["strayed_of"] = told
    counts["strayed"] = told & ~at_home
    return {name: Count("pk", filter=which) for name, which in counts.items()}


def _shares(counts: dict[str, int], *, is_one_person: bool = False) -> dict[str, Share]:
    """Rows of pairs alone have no `first` of their own: nobody judged them."""
    shares = {}
    for sway in SWAYS:
        of = counts.get("judged" if sway == "first" else f"{sway}_of", 0)
        together = None if is_one_person else counts.get(f"{sway}_together")
        known = None if together is None else worth(of, together)
        shares[sway] = share(counts.get(sway, 0), of, known)
    return shares

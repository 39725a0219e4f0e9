"""Reads for the pages of rounds and policies; nothing here changes anything."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.shortcuts import get_object_or_404

from annotation.models import Project
from annotation.models.comparisons import unseen
from inference.models import Deployment, Policy
from inference.queries import channel_policies, policy_states
from training import attempts
from training.models import RoundMetric, RoundPair, TrainingRound

T = TypeVar("T")

CHARTED = {
    "rewards": ["rewards/chosen", "rewards/rejected", "rewards/margins"],
    "accuracy": ["rewards/accuracies"],
    "loss": ["loss"],
}
"""Chart → TRL's names on it; each also as `eval_…` where held-out pairs were scored."""

MOST_POINTS = 300
"""Points of a line; more than a screen has columns for would only cost time."""

MOST_ROWS = 60
"""Rows of the table of numbers."""

HARDEST = 10
"""Pairs listed of those that the policy still gets wrong, or nearly."""

MOST_OF_A_TENTH = 200
"""Rows whose mean stands for that of a tenth of a curve: of 2,000 steps all."""


def with_counts() -> QuerySet[TrainingRound]:
    """Rounds with what pages name of them, each with `n_pairs`."""
    # Counted apart: a join would carry all columns along with each of the pairs.
    pairs = RoundPair.objects.filter(training_round=OuterRef("pk")).order_by()
    counted = pairs.values("training_round").annotate(n=Count("*")).values("n")
    return TrainingRound.objects.select_related(
        "project", "start", "policy", "created_by"
    ).annotate(n_pairs=Coalesce(Subquery(counted), 0))


def rounds_of(project: Project) -> QuerySet[TrainingRound]:
    """The project's rounds, newest first."""
    return with_counts().filter(project=project).order_by("-number")


def project_of_round(pk: int) -> Project:
    """How a view's project is found where the address names a round; else Http404."""
    rows = TrainingRound.objects.select_related("project__channel__serving")
    return get_object_or_404(rows, pk=pk).project


def pairs_of(round_id: int) -> QuerySet[RoundPair]:
    """The ids of the pairs that a round froze: what an export is narrowed to."""
    return RoundPair.objects.filter(training_round=round_id).values("pair")


def active_round(project: Project) -> TrainingRound | None:
    return TrainingRound.objects.filter(
        project=project, state__in=TrainingRound.ACTIVE
    ).first()


def is_silent(training_round: TrainingRound) -> bool:
    """Whether its supervisor has not been heard of for longer than the limit."""
    beat = training_round.heartbeat_at
    return (
        training_round.state in attempts.SUPERVISED
        and beat is not None
        and beat < attempts.lost_before()
    )


Rows = list[tuple[int, dict[str, float | None]]]
"""(step, {TRL's name: value}) of logged steps, in order."""


@dataclass(frozen=True)
class Curves:
    """What a page reads of a phase's steps: of 100,000 no more rows than of 3,000."""

    drawn: Rows
    """At most MOST_POINTS, evenly spread, the first and the last among them."""
    evaluated: Rows
    """Where held-out pairs were scored: all, or MOST_POINTS evenly spread."""
    first: Rows
    """Of the first tenth, at least two; all of it or MOST_OF_A_TENTH evenly spread."""
    last: Rows
    """The same of the last tenth."""


def curves_of(training_round: TrainingRound, phase: str = "dpo") -> Curves:
    """Four queries, six where evaluations are thinned; the database picks the rows."""
    logged = training_round.metrics.filter(phase=phase).order_by("step")
    begin, end = TrainingRound.objects.values_list(
        Subquery(logged.values("step")[:1]),
        Subquery(logged.reverse().values("step")[:1]),
    ).get(pk=training_round.pk)
    if begin is None:
        return Curves([], [], [], [])
    size = max(2, (end + 1 - begin) // 10)
    spread = thinned(range(begin, end + 1), MOST_POINTS)
    early = thinned(range(begin, begin + size), MOST_OF_A_TENTH)
    late = thinned(range(end + 1 - size, end + 1), MOST_OF_A_TENTH)
    where = ("training_round_id = %s AND phase = %s", [training_round.pk, phase])
    rows = _logged_by({*spread, *early, *late}, logged, *where)
    evaluated = logged.filter(is_evaluated=True)
    scored = list(evaluated.values_list("step", "values")[: MOST_POINTS + 1])
    if len(scored) > MOST_POINTS:
        where = (f"{where[0]} AND is_evaluated", where[1])
        scored = _logged_by({*spread, scored[0][0]}, evaluated, *where)
    first = _of(rows, early)
    last = [row for row in _of(rows, late) if row[0] >= late[0]]
    return Curves(
        drawn=_of(rows, spread),
        evaluated=scored,
        first=max(first, rows[:2], key=len),
        last=max(last, rows[-2:], key=len),
    )


def _logged_by(
    steps: set[int], logged: QuerySet[RoundMetric], where: str, params: list[Any]
) -> Rows:
    """For each of the steps its row, else the last one before it.

    A look into the index for each, where numbering the rows (`ROW_NUMBER`) would go
    through all of them. Two queries: as one, PostgreSQL looks for each row of the round
    where its table was not analysed since.
    """
    places = ", ".join(f"({step})" for step in sorted(steps))
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH place(at) AS (VALUES {places}) SELECT (SELECT MAX(step)"
            f" FROM {RoundMetric._meta.db_table} WHERE {where} AND step <= place.at)"
            " FROM place",
            params,
        )
        found = {step for (step,) in cursor if step is not None}
    return list(logged.filter(step__in=found).values_list("step", "values"))


def _of(rows: Rows, steps: Sequence[int]) -> Rows:
    """Of each step the row, else the last one before it; each once."""
    logged = [step for step, _values in rows]
    places = {bisect_right(logged, step) - 1 for step in steps}
    return [rows[place] for place in sorted(places) if place >= 0]


def last_steps(training_round: TrainingRound) -> list[int | None]:
    """The last logged step of each phase: what tells that there are new ones."""
    return [
        training_round.metrics.filter(phase=phase)
        .order_by("-step")
        .values_list("step", flat=True)
        .first()
        for phase in ("sft", "dpo")
    ]


def chart_series(curves: Curves) -> dict[str, Any]:
    """What round.js draws: {chart: [{"name", "points": [[step, value], …]}, …]}."""
    charts: dict[str, Any] = {}
    for chart, names in CHARTED.items():
        lines = []
        for name in names:
            lines.append(_line(name, curves.drawn))
            lines.append(_line(f"eval_{name}", curves.evaluated))
        charts[chart] = [line for line in lines if line["points"]]
    return charts


def _line(name: str, rows: Rows) -> dict[str, Any]:
    points = [
        [step, round(value, 6)]
        for step, values in rows
        if is_number(value := values.get(name))
    ]
    return {"name": name, "points": points}


def is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def thinned(rows: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (most - 1))] for i in range(most)]


def number_table(curves: Curves) -> dict[str, Any]:
    """The charts' numbers as a table: {"names": […], "rows": [(step, [value, …])]}.

    Of the curves and of the evaluated steps MOST_ROWS each, if they have so many.
    """
    names = [name for group in CHARTED.values() for name in group]
    names += [f"eval_{name}" for name in names]
    rows = dict(
        [*thinned(curves.drawn, MOST_ROWS), *thinned(curves.evaluated, MOST_ROWS)]
    )
    known = [name for name in names if any(name in row for row in rows.values())]
    return {
        "names": known,
        "rows": [
            (step, [rows[step].get(name) for name in known]) for step in sorted(rows)
        ],
    }


def held_out_count(training_round: TrainingRound) -> int | None:
    """Held-out pairs that measured the round, once its summary says so."""
    rows = training_round.summary.get("rows") or {}
    return (rows.get("held_out.jsonl") or {}).get("used")


def hardest_pairs(training_round: TrainingRound) -> list[RoundPair]:
    """The HARDEST pairs with the lowest margin after training, lowest first.

    Below 0 the policy still prefers the rejected answer: a hard pair, or a slip of
    the annotator.
    """
    return list(
        training_round.round_pairs.filter(final_margin__isnull=False)
        .select_related("pair__prompt", "pair__chosen", "pair__rejected")
        .defer(*unseen("pair__chosen", "pair__rejected", also=["html"]))
        .order_by("final_margin", "pair_id")[:HARDEST]
    )


def policy_rows(project: Project) -> list[dict[str, Any]]:
    """The project's policies, newest first: {"policy", "state", "round", "line", …}.

    `line` is its ancestry from the base on; `served_at` its last deployment.
    """
    policies = channel_policies(project.channel)
    by_pk = {policy.pk: policy for policy in policies}
    states = policy_states(policies, project.channel)
    rounds = {
        row.policy_id: row for row in rounds_of(project).filter(policy__in=list(by_pk))
    }
    served: dict[int, Any] = {}
    for policy_id, at in (
        Deployment.objects.filter(channel=project.channel)
        .order_by("-id")
        .values_list("policy_id", "at")
    ):
        served.setdefault(policy_id, at)
    return [
        {
            "policy": policy,
            "state": states[policy.pk],
            "round": rounds.get(policy.pk),
            "line": _line_of(policy, by_pk),
            "served_at": served.get(policy.pk),
        }
        for policy in reversed(policies)
    ]


def _line_of(policy: Policy, by_pk: dict[int, Policy]) -> list[Policy]:
    """From the base to the policy's parent."""
    line: list[Policy] = []
    parent = by_pk.get(policy.parent_id)
    while parent is not None:
        line.insert(0, parent)
        parent = by_pk.get(parent.parent_id)
    return line

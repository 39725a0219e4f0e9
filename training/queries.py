"""Reads for the pages of rounds and policies; nothing here changes anything."""

import math
from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.shortcuts import get_object_or_404

from annotation.models import Project
from annotation.models.comparisons import unseen
from inference.models import Deployment, Policy
from inference.queries import channel_policies, policy_states
from training import attempts
from training.models import RoundPair, TrainingRound

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


def metric_rows(
    training_round: TrainingRound, phase: str = "dpo"
) -> list[tuple[int, dict[str, float | None]]]:
    """(step, {TRL's name: value}) of each logged step, in order."""
    return list(
        training_round.metrics.filter(phase=phase)
        .order_by("step")
        .values_list("step", "values")
    )


def chart_series(rows: list[tuple[int, dict]]) -> dict[str, Any]:
    """What round.js draws: {chart: [{"name", "points": [[step, value], …]}, …]}.

    Long runs are thinned to MOST_POINTS evenly spread steps, the last one kept;
    evaluated steps are few and all kept.
    """
    kept = thinned(rows, MOST_POINTS)
    charts: dict[str, Any] = {}
    for chart, names in CHARTED.items():
        lines = []
        for name in names:
            lines.append(_line(name, kept))
            lines.append(_line(f"eval_{name}", rows))
        charts[chart] = [line for line in lines if line["points"]]
    return charts


def _line(name: str, rows: list[tuple[int, dict]]) -> dict[str, Any]:
    points = [
        [step, round(value, 6)]
        for step, values in rows
        if is_number(value := values.get(name))
    ]
    return {"name": name, "points": points}


def is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def thinned(rows: list, most: int) -> list:
    """At most `most` of the rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (most - 1))] for i in range(most)]


def number_table(rows: list[tuple[int, dict]]) -> dict[str, Any]:
    """The charts' numbers as a table: {"names": […], "rows": [(step, [value, …])]}."""
    names = [name for group in CHARTED.values() for name in group]
    names += [f"eval_{name}" for name in names]
    known = [name for name in names if any(name in values for _step, values in rows)]
    evaluated = {
        step for step, values in rows if any(n.startswith("eval_") for n in values)
    }
    steps = {step for step, _values in thinned(rows, MOST_ROWS)} | evaluated
    return {
        "names": known,
        "rows": [
            (step, [values.get(name) for name in known])
            for step, values in rows
            if step in steps
        ],
    }


def held_out_count(training_round: TrainingRound) -> int | None:
    """Held-out pairs that measured the round, once its summary says so."""
    rows = training_round.summary.get("rows") or {}
    return (rows.get("held_out.jsonl") or {}).get("used")


def hardest_pairs(training_round: TrainingRound, most: int = 10) -> list[Any]:
    """The pairs with the lowest margin after training, lowest first.

    Below 0 the policy still prefers the rejected answer: a hard pair, or a slip of
    the annotator.
    """
    return list(
        training_round.round_pairs.filter(final_margin__isnull=False)
        .select_related("pair__prompt", "pair__chosen", "pair__rejected")
        .defer(*unseen("pair__chosen", "pair__rejected", also=["html"]))
        .order_by("final_margin", "pair_id")[:most]
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

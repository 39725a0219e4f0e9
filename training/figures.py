"""Training's part of a project's figures: the next round's pairs, and past rounds'.

Annotation shows it (quality, overview) and may not know rounds; training/apps.py
registers it there. What counts as new is what pages everywhere call new: no round that
made a usable policy has trained on it.
"""

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from annotation import queries, sways
from annotation.models import PreferencePair, Project
from annotation.queries import sound_pairs
from inference.models import Deployment
from inference.queries import channel_policies, policy_states
from training.models import RoundPair, TrainingRound

PAST_ROUNDS = 10
"""The latest ones reported on."""


def rounds_part(project: Project) -> dict[str, Any]:
    """{"next": report on the pairs a round would find new, "past": [{"number", "pk",
    "state", …report}, …] newest first, "candidates": [policy's name, …]}.

    A report is that of sways.of_pairs. Nine queries, however many rounds.
    """
    past = list(
        TrainingRound.objects.filter(project=project).order_by("-number")[:PAST_ROUNDS]
    )
    reports = sways.by_group(
        RoundPair.objects.filter(training_round__in=[row.pk for row in past]),
        "training_round",
        "pair",
    )
    policies = channel_policies(project.channel)
    states = policy_states(policies, project.channel)
    return {
        "next": sways.of_pairs(new_pairs(project)),
        "past": [
            {"number": row.number, "pk": row.pk, "state": row.state, **reports[row.pk]}
            for row in past
            if row.pk in reports
        ],
        "candidates": [p.name for p in policies if states[p.pk] == "candidate"],
    }


def funnel(project: Project) -> list[dict[str, Any]]:
    """annotation.queries.funnel, and how many of those pairs rounds have taken: what is
    not new. Two queries more."""
    steps = queries.funnel(project)
    sound, new = steps[-1]["count"], new_pairs(project).count()
    taken = queries.step_of(
        "trained", _("Taken by a round"), max(0, sound - new), {"not_yet": new}
    )
    return [*steps, taken]


def new_pairs(project: Project) -> QuerySet[PreferencePair]:
    """Sound pairs that no round has made a usable policy of."""
    return sound_pairs(project).exclude(pk__in=used_pairs([project]).values("pair"))


def used_pairs(projects: Iterable[Project]) -> QuerySet[RoundPair]:
    """Of rounds that succeeded; failed, cancelled and rolled-back ones used nothing."""
    return RoundPair.objects.filter(
        training_round__project__in=[project.pk for project in projects],
        training_round__state=TrainingRound.State.SUCCEEDED,
        training_round__policy__rejected_reason="",
    ).exclude(training_round__policy__in=_rolled_back(projects))


def _rolled_back(projects: Iterable[Project]) -> set[int]:
    """Policies that a rollback ended and that have not served since."""
    ended: set[int] = set()
    flips = Deployment.objects.filter(
        channel__in=[project.channel_id for project in projects]
    ).order_by("id")
    for policy, previous, is_rollback in flips.values_list(
        "policy", "previous", "is_rollback"
    ):
        if is_rollback:
            ended.add(previous)
        ended.discard(policy)
    return ended

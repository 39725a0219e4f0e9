"""What pages of annotation show of rounds, which annotation itself may not know."""

from collections.abc import Iterable

from django import template
from django.db.models import Count

from annotation.models import Project
from inference.models import Deployment
from training.models import RoundPair, TrainingRound
from training.queries import rounds_of

register = template.Library()


@register.simple_tag
def rounds_to_export(project: Project) -> list[TrainingRound]:
    """The latest rounds, each with `n_pairs`; one query."""
    return list(rounds_of(project)[:20])


@register.simple_tag
def put_rounds(projects: Iterable[Project]) -> str:
    """Give each project its `running_round` (or None) and `n_new`; prints nothing.

    `n_new` are the sound pairs that no round has made a usable policy of: those of
    failed, cancelled and rolled-back rounds are free again. Three queries.
    """
    active = TrainingRound.objects.filter(
        project__in=[project.pk for project in projects],
        state__in=TrainingRound.ACTIVE,
    )
    by_project = {
        training_round.project_id: training_round for training_round in active
    }
    used = dict(
        RoundPair.objects.filter(
            training_round__project__in=[project.pk for project in projects],
            training_round__state=TrainingRound.State.SUCCEEDED,
            training_round__policy__rejected_reason="",
        )
        .exclude(training_round__policy__in=_rolled_back(projects))
        .values_list("training_round__project")
        .annotate(Count("pair", distinct=True))
    )
    for project in projects:
        project.running_round = by_project.get(project.pk)
        project.n_new = max(0, project.n_sound - used.get(project.pk, 0))
    return ""


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


@register.simple_tag
def put_round(project: Project) -> str:
    """The same for one project."""
    return put_rounds([project])

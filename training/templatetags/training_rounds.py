"""What pages of annotation show of rounds, which annotation itself may not know."""

from collections.abc import Iterable

from django import template

from annotation.models import Project
from training.models import TrainingRound

register = template.Library()


@register.simple_tag
def put_running_rounds(projects: Iterable[Project]) -> str:
    """Give each project its `running_round` (or None), in one query; prints nothing."""
    active = TrainingRound.objects.filter(
        project__in=[project.pk for project in projects],
        state__in=TrainingRound.ACTIVE,
    )
    by_project = {
        training_round.project_id: training_round for training_round in active
    }
    for project in projects:
        project.running_round = by_project.get(project.pk)
    return ""


@register.simple_tag
def put_running_round(project: Project) -> str:
    """The same for one project."""
    return put_running_rounds([project])

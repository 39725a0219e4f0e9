"""What pages of annotation show of rounds, which annotation itself may not know."""

from collections.abc import Iterable

from django import template
from django.db.models import Count, OuterRef, Q, Subquery

from annotation.models import Project
from training.figures import used_pairs
from training.models import TrainingRound
from training.queries import rounds_of

register = template.Library()


@register.simple_tag
def rounds_to_export(project: Project) -> list[TrainingRound]:
    """The latest rounds, each with `n_pairs`; one query."""
    return list(rounds_of(project)[:20])


@register.simple_tag
def put_rounds(projects: Iterable[Project]) -> str:
    """Give each project its `running_round` and `failed_round` (or None) and `n_new`;
    prints nothing.

    `n_new` are the sound pairs that no round has made a usable policy of: those of
    failed, cancelled and rolled-back rounds are free again. Three queries.
    """
    _put_running(projects)
    # Figures that a worker keeps have it already.
    counted = [project for project in projects if not hasattr(project, "n_new")]
    used = dict(
        used_pairs(counted)
        .values_list("training_round__project")
        .annotate(Count("pair", distinct=True))
    )
    for project in counted:
        project.n_new = max(0, project.n_sound - used.get(project.pk, 0))
    return ""


@register.simple_tag
def put_round(project: Project) -> str:
    """Give one project its rounds as above; `n_new` it has from its figures."""
    _put_running([project])
    return ""


def _put_running(projects: Iterable[Project]) -> None:
    """Its active round, or else its latest one where that failed; one query."""
    State = TrainingRound.State
    latest = TrainingRound.objects.filter(project=OuterRef("project")).order_by(
        "-number"
    )
    told = TrainingRound.objects.filter(
        Q(state__in=TrainingRound.ACTIVE)
        | Q(state=State.FAILED, pk=Subquery(latest.values("pk")[:1])),
        project__in=[project.pk for project in projects],
    )
    by_project: dict[int, dict[bool, TrainingRound]] = {}
    for row in told:
        by_project.setdefault(row.project_id, {})[row.is_active] = row
    for project in projects:
        rows = by_project.get(project.pk, {})
        project.running_round = rows.get(True)
        project.failed_round = None if True in rows else rows.get(False)

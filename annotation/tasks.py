"""Celery's way in: load, call the service. A lost message costs one beat."""

from celery import shared_task

from annotation import (
    checking,
    ending,
    figures,
    filling,
    import_jobs,
    project_settings,
    redeciding,
    rerendering,
    stock,
)
from annotation.models import Project
from annotation.nudging import send
from annotation.project_settings import DecideBy

CHECKED_AT_ONCE = 1000
"""After an import of a hundred thousand pairs the other tasks of the queue still get
their turn; the beat sends the next message."""


@shared_task(name="annotation.tasks.fill_stock")
def fill_stock(project_id: int) -> None:
    project = Project.objects.select_related("channel").filter(pk=project_id).first()
    if project is not None:
        filling.fill_stock(project)


@shared_task(name="annotation.tasks.fill_stocks")
def fill_stocks() -> None:
    """A nudge for each project whose stock is short or of an earlier policy.

    Before that, what was withdrawn while somebody held it is decided once their time
    is over.
    """
    ending.end_lapsed()
    for project in Project.objects.select_related("channel"):
        if stock.is_wanting(project):
            send(fill_stock, project.pk, expires=30)


@shared_task(name="annotation.tasks.check_pairs")
def check_pairs() -> None:
    checking.check_again_after_upgrade()
    checking.check_waiting(most=CHECKED_AT_ONCE)


@shared_task(name="annotation.tasks.decide_again")
def decide_again(project_id: int) -> None:
    """After the project changed how it decides."""
    project = Project.objects.filter(pk=project_id).first()
    if project is not None:
        redeciding.bring_up_to_date(project)


@shared_task(name="annotation.tasks.weigh_annotators")
def weigh_annotators() -> None:
    """New weights, and what follows of them, where enough was judged since the last.

    Before that, what `decide_again` was to do where its message or its worker was lost."""
    for project in Project.objects.all():
        if project.decide_again_since is not None:
            redeciding.bring_up_to_date(project)
        elif project_settings.of(project).decide_by == DecideBy.WEIGHTED:
            redeciding.weigh_if_due(project)


@shared_task(name="annotation.tasks.refresh_figures")
def refresh_figures(project_id: int) -> None:
    project = Project.objects.select_related("channel").filter(pk=project_id).first()
    if project is not None:
        figures.refresh(project)


@shared_task(name="annotation.tasks.refresh_wanted_figures")
def refresh_wanted_figures() -> None:
    figures.refresh_wanted()


@shared_task(name="annotation.tasks.rerender")
def rerender() -> None:
    """After an upgrade of the renderer; else one look into an index."""
    rerendering.rerender_some()


@shared_task(name="annotation.tasks.run_import")
def run_import(job_id: int) -> None:
    import_jobs.run(job_id)


@shared_task(name="annotation.tasks.tend_imports")
def tend_imports() -> None:
    import_jobs.tend()

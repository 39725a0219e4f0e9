"""Tasks: the GPU queue's nudge and the beat's healing. Both are safe to repeat."""

from celery import shared_task

from annotation import shutdown  # noqa: F401  Connects the worker's signals.


@shared_task(name="training.tasks.train_round")
def train_round(round_id: int) -> None:
    from training.running import run_round

    run_round(round_id)


@shared_task(name="training.tasks.reconcile", expires=60)
def reconcile() -> None:
    from training.reconcile import reconcile as heal

    heal()

"""How a round changes state: one table, one function, one conditional UPDATE.

Whatever moves a round says which epoch it acts for. A supervisor that was paused and
overtaken finds 0 rows and must leave. What a state means is done elsewhere.
"""

from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from training.errors import StaleRound
from training.models import RoundEvent, TrainingRound

State = TrainingRound.State

SOURCES: dict[str, list[str]] = {
    State.QUEUED: [
        State.PREPARING,
        State.TRAINING,
        State.PUBLISHING,
        State.FAILED,
        State.CANCELLED,
    ],
    State.PREPARING: [State.QUEUED],
    State.TRAINING: [State.PREPARING],
    State.PUBLISHING: [State.TRAINING],
    State.SUCCEEDED: [State.PUBLISHING],
    State.FAILED: [State.QUEUED, State.PREPARING, State.TRAINING, State.PUBLISHING],
    State.CANCELLED: [State.QUEUED, State.PREPARING, State.TRAINING],
}
"""From which states each state may be entered."""

FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


def move(
    training_round: TrainingRound,
    to: str,
    *,
    at_epoch: int,
    detail: str = "",
    sources: list[str] | None = None,
    only_if: Q | None = None,
    **changes: Any,
) -> TrainingRound:
    """Enter state `to` and record the event, both or neither; the row afresh.

    `at_epoch` is the epoch the caller owns (or has read); `changes` are more columns
    of the same UPDATE; `sources` narrows the states it may come from, `only_if` is more
    that must hold of the row as it is written. Raises StaleRound where the row has
    another epoch or state, or is gone. A round that was asked to
    cancel is never published: what was acknowledged holds.
    """
    allowed = [s for s in SOURCES[to] if sources is None or s in sources]
    if to in FINISHED:
        changes.setdefault("finished_at", timezone.now())
        changes.setdefault("eta_seconds", None)
    with transaction.atomic():
        rows = TrainingRound.objects.filter(
            only_if or Q(), pk=training_round.pk, state__in=allowed, epoch=at_epoch
        )
        if to == State.PUBLISHING:
            rows = rows.filter(cancel_requested=False)
        if not rows.update(state=to, **changes):
            raise StaleRound(
                f"round {training_round.pk} is no longer in {'/'.join(allowed)}"
                f" at epoch {at_epoch}"
            )
        fresh = TrainingRound.objects.select_related(
            "project__channel", "start", "policy"
        ).get(pk=training_round.pk)
        note(fresh, detail)
    return fresh


def note(training_round: TrainingRound, detail: str) -> None:
    """Record something that happened to a round without a change of its state."""
    RoundEvent.objects.create(
        training_round=training_round,
        state=training_round.state,
        epoch=training_round.epoch,
        detail=detail,
    )

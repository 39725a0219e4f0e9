"""One attempt at a round, as its row sees it: claimed, alive, given back, ended.

Each function is one conditional UPDATE on the epoch, so that of two supervisors only
the newer one's writes count. What the attempt does meanwhile is in running.py.
"""

import os
import socket
from datetime import timedelta

from django.conf import settings
from django.db.models import F, Q
from django.db.models.functions import Coalesce, Greatest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from annotation.clocks import not_lately
from training.errors import StaleRound
from training.models import TrainingRound
from training.states import move

State = TrainingRound.State

SUPERVISED = [State.PREPARING, State.TRAINING, State.PUBLISHING]


def me() -> str:
    """Who owns an attempt: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def claim(round_id: int) -> TrainingRound | None:
    """Take a queued round under a new epoch; None where there is none to take."""
    waiting = TrainingRound.objects.filter(pk=round_id, state=State.QUEUED).first()
    if waiting is None:
        return None
    now = timezone.now()
    try:
        return move(
            waiting,
            State.PREPARING,
            at_epoch=waiting.epoch,
            detail=gettext_noop("attempt %(number)d")
            % {"number": waiting.attempts + 1},
            sources=[State.QUEUED],
            epoch=F("epoch") + 1,
            attempts=F("attempts") + 1,
            owner=me(),
            heartbeat_at=now,
            progress_at=now,
            started_at=Coalesce("started_at", now),
        )
    except StaleRound:
        return None


def heartbeat(training_round: TrainingRound, **changes: object) -> bool:
    """Say that this attempt lives, with what else is new; False: it was taken away."""
    return bool(
        TrainingRound.objects.filter(
            pk=training_round.pk, epoch=training_round.epoch, state__in=SUPERVISED
        ).update(heartbeat_at=timezone.now(), **changes)
    )


def give_back(
    training_round: TrainingRound,
    reason: str,
    *,
    is_lost: bool,
    only_if: Q | None = None,
) -> TrainingRound:
    """End an attempt that was cut short: queue the round again under a new epoch.

    A lost attempt counts towards ROUND_ATTEMPTS, at which the round fails with
    `reason`; one that was asked to stop does not. Where a cancel was asked for, the
    round ends cancelled instead. Raises StaleRound, also where the row does not fulfil
    `only_if` at the moment of the write.
    """
    # Publishing, its adapter is whole. Training again could make a second policy.
    only_if = Q(state__in=[State.PREPARING, State.TRAINING]) & (only_if or Q())
    fresh = TrainingRound.objects.get(pk=training_round.pk)
    if fresh.cancel_requested:
        return cancelled(training_round, reason, only_if=only_if)
    if is_lost and fresh.attempts >= settings.ROUND_ATTEMPTS:
        return failed(
            training_round,
            _("%(reason)s This was attempt %(number)d, the last one made by itself.")
            % {"reason": reason, "number": fresh.attempts},
            only_if=only_if,
        )
    count = F("attempts") if is_lost else Greatest(F("attempts") - 1, 0)
    return move(
        training_round,
        State.QUEUED,
        at_epoch=training_round.epoch,
        detail=reason,
        only_if=only_if,
        epoch=F("epoch") + 1,
        attempts=count,
        owner="",
        heartbeat_at=None,
        nudged_at=None,
        eta_seconds=None,
    )


def failed(
    training_round: TrainingRound, reason: str, *, only_if: Q | None = None
) -> TrainingRound:
    """End the round with a reason a manager understands. Raises StaleRound."""
    return move(
        training_round,
        State.FAILED,
        at_epoch=training_round.epoch,
        detail=reason,
        only_if=only_if,
        error=reason,
    )


def cancelled(
    training_round: TrainingRound, detail: str = "", *, only_if: Q | None = None
) -> TrainingRound:
    """End the round as a manager asked. Raises StaleRound."""
    return move(
        training_round,
        State.CANCELLED,
        at_epoch=training_round.epoch,
        detail=detail,
        only_if=only_if,
    )


def lost_before() -> timezone.datetime:
    """Heartbeats older than this belong to a supervisor that is gone."""
    return timezone.now() - timedelta(seconds=settings.ROUND_HEARTBEAT_LIMIT)


def without_supervisor() -> Q:
    """Of rounds whose supervisor is gone."""
    limit = timedelta(seconds=settings.ROUND_HEARTBEAT_LIMIT)
    return not_lately("heartbeat_at", limit)

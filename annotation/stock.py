"""The stock: comparisons made ahead, so that nobody waits for the model.

Fresh ones count (a free slot, judged or skipped by nobody), so every act of a person
is made up for, and a project that nobody works in stops at its stock. Workers announce
what they make (StockReservation), so together they never make a pile. How it is made is
filling.py's.
"""

from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from annotation import project_settings
from annotation.batches import in_batches
from annotation.models import (
    Comparison,
    Judgment,
    Lease,
    Project,
    Prompt,
    Slot,
    StockReservation,
)
from annotation.nudging import hint
from inference import queries as inference_queries
from inference.models import Policy

RESERVED_FOR = timedelta(seconds=30)
"""So long after its last sign a worker counts as dead, and another one takes over."""
RESTS_FOR = timedelta(minutes=10)
"""A prompt whose answers were the same, or which the model refuses for good."""


def nudge(project: Project) -> None:
    """Ask for the stock to be filled once the transaction has committed."""
    transaction.on_commit(partial(_send_nudge, project.pk), robust=True)


def _send_nudge(project_id: int) -> None:
    from annotation.tasks import fill_stock as task  # It imports this module.

    hint(task, project_id, expires=30)


def fresh(project: Project) -> int:
    """Comparisons with a free slot that nobody has judged or skipped."""
    return (
        Comparison.objects.filter(
            Exists(
                Slot.objects.filter(comparison=OuterRef("pk"), state=Slot.State.OPEN)
            ),
            ~Exists(Judgment.objects.filter(comparison=OuterRef("pk"), undone_at=None)),
            ~Exists(
                Lease.objects.filter(
                    comparison=OuterRef("pk"), outcome=Lease.Outcome.SKIPPED
                )
            ),
            project=project,
            state=Comparison.State.OPEN,
            purpose__in=Comparison.OFFERED,
        )
        .order_by()
        .count()
    )


def missing(project: Project) -> int:
    """How many comparisons are to be made, those being made left out."""
    making = being_made(timezone.now()).filter(project=project).count()
    return project_settings.of(project).stock - fresh(project) - making


def being_made(now: datetime) -> QuerySet[StockReservation]:
    """What workers have announced and are at, in all projects."""
    return StockReservation.objects.filter(~is_over(now), is_resting=False)


def is_over(now: datetime) -> Q:
    """Of announcements and rests: their time is over.

    So it is where it would last for longer than any is given: the clock was set back.
    """
    too_long = Q(is_resting=False, until__gt=now + 2 * RESERVED_FOR)
    return Q(until__lte=now) | too_long | Q(until__gt=now + 2 * RESTS_FOR)


def is_wanting(project: Project) -> bool:
    """Whether fill_stock has something to do."""
    policy = inference_queries.serving_policy(project.channel)
    if _left_behind(project, policy, timezone.now()).exists():
        return True
    asked = Prompt.objects.filter(project=project, is_asked=True)
    return missing(project) > 0 and asked.exists()


def wake_prompts(project: Project) -> None:
    """Ask prompts that rest again: sampled otherwise they may give a pair."""
    StockReservation.objects.filter(project=project, is_resting=True).delete()


def with_system(messages: list[dict], system_prompt: str) -> list[dict]:
    """The project's system prompt first, unless the prompt brings its own."""
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def withdraw_stock(project: Project, keep: Policy) -> int:
    """Withdraw other policies' comparisons that nobody holds; how many.

    Held and begun ones finish. A lease that ran out, or that is only reserved ahead,
    holds nothing: its comparison goes with the rest. Repeating it changes nothing.
    """
    now = timezone.now()
    left = _left_behind(project, keep, now)
    if not left.exists():
        return 0
    with transaction.atomic():
        # Who has locked a row is judging it: not ours to withdraw.
        ids = list(
            left.select_for_update(no_key=True, skip_locked=True, of=("self",))
            .order_by("pk")
            .values_list("pk", flat=True)
        )
        for some in in_batches(ids):
            _withdraw(some, now)
    return len(ids)


def withdraw_open(comparison: Comparison) -> None:
    """Withdraw one open comparison, whose row the caller has locked."""
    now = timezone.now()
    _withdraw([comparison.pk], now)
    comparison.state, comparison.withdrawn_at = Comparison.State.WITHDRAWN, now


def _left_behind(project: Project, keep: Policy, now) -> QuerySet[Comparison]:
    in_use = Slot.objects.filter(
        Q(state=Slot.State.JUDGED)
        | Q(
            state=Slot.State.LEASED,
            expires_at__gt=now,
            lease__outcome=Lease.Outcome.ACTIVE,
        ),
        comparison=OuterRef("pk"),
    )
    return Comparison.objects.filter(
        ~Exists(in_use),
        project=project,
        state=Comparison.State.OPEN,
        purpose=Comparison.Purpose.TRAIN,
        policy__isnull=False,
    ).exclude(policy=keep)


def _withdraw(ids: list[int], now) -> None:
    Comparison.objects.filter(pk__in=ids).update(
        state=Comparison.State.WITHDRAWN, withdrawn_at=now
    )
    leased = Slot.objects.filter(comparison__in=ids, state=Slot.State.LEASED)
    # Looked at behind their locks: a reserved one may be on its way to somebody's desk.
    list(leased.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    over = Q(expires_at__lte=now) | Q(lease__outcome=Lease.Outcome.AHEAD)
    ended = dict(leased.filter(over).values_list("pk", "lease"))
    nobody = {"state": Slot.State.WITHDRAWN, "lease": None, "expires_at": None}
    Slot.objects.filter(pk__in=ended).update(**nobody)
    Slot.objects.filter(comparison__in=ids, state=Slot.State.OPEN).update(**nobody)
    gone = Lease.objects.filter(
        pk__in=ended.values(), outcome__in=Lease.HELD, slot=None
    )
    gone.update(outcome=Lease.Outcome.EXPIRED, ended_at=now)

"""The stock: comparisons made ahead, so that nobody waits for the model.

Fresh ones count (a free slot, judged or skipped by nobody), so every act of a person
is made up for, and a project that nobody works in stops at its stock. Workers announce
what they make (StockReservation), so together they never make a pile.
"""

import logging
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import connections, transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from annotation import project_settings
from annotation.models import (
    Comparison,
    Completion,
    Judgment,
    Lease,
    Project,
    Prompt,
    Slot,
    StockReservation,
)
from annotation.nudging import hint
from annotation.overlap import judgments_wanted
from annotation.rendering import render_markdown
from inference import queries as inference_queries
from inference import services as inference
from inference.errors import IdenticalAnswers, InferenceError
from inference.models import Channel, Policy
from inference.sampling import SamplingParams

logger = logging.getLogger(__name__)

# Requests sent to vLLM together: it batches them, a pair alone leaves it idle.
TOGETHER = 8
RESERVED_FOR = timedelta(minutes=5)
# A prompt whose answers were the same, or which the model refuses for good.
RESTS_FOR = timedelta(minutes=10)


@dataclass(frozen=True)
class _Order:
    """One comparison to be made."""

    reservation_id: int
    prompt_id: int
    messages: list[dict[str, Any]]


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
    making = StockReservation.objects.filter(
        project=project, is_resting=False, until__gt=timezone.now()
    ).count()
    return project_settings.of(project).stock - fresh(project) - making


def is_wanting(project: Project) -> bool:
    """Whether fill_stock has something to do."""
    policy = inference_queries.serving_policy(project.channel)
    if _left_behind(project, policy, timezone.now()).exists():
        return True
    asked = Prompt.objects.filter(project=project, is_asked=True)
    return missing(project) > 0 and asked.exists()


def fill_stock(project: Project) -> int:
    """Make what is missing with the policy that serves; how many were made.

    Stops with a logged sentence where the model can't be reached; the beat comes
    again. Comparisons that an earlier policy left behind are withdrawn first.
    """
    made = 0
    while True:
        policy = inference_queries.serving_policy(project.channel)
        withdraw_stock(project, keep=policy)
        orders = _reserve(project)
        if not orders:
            return made
        try:
            made += _make(project, policy, orders)
        except InferenceError as error:
            logger.warning("No comparisons made for %s: %s", project.slug, error)
            return made
        finally:
            StockReservation.objects.filter(
                pk__in=[order.reservation_id for order in orders], is_resting=False
            ).delete()


def _reserve(project: Project) -> list[_Order]:
    """Announce up to TOGETHER comparisons, of the prompts used least so far.

    Among equally used prompts the order is that of their hashes: random to people,
    the same on every run.
    """
    with transaction.atomic():
        # One worker at a time counts what is missing and says what it takes.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        now = timezone.now()
        StockReservation.objects.filter(project=project, until__lte=now).delete()
        wanted = min(missing(project), TOGETHER)
        if wanted <= 0:
            return []
        prompts = list(_least_used(project, wanted))
        reservations = StockReservation.objects.bulk_create(
            StockReservation(project=project, prompt=prompt, until=now + RESERVED_FOR)
            for prompt in prompts
        )
    return [
        _Order(reservation.pk, prompt.pk, prompt.messages)
        for reservation, prompt in zip(reservations, prompts, strict=True)
    ]


def _least_used(project: Project, count: int) -> list[Prompt]:
    asked = Prompt.objects.filter(project=project, is_asked=True)
    free = asked.exclude(
        pk__in=StockReservation.objects.filter(project=project).values("prompt")
    )
    used = Comparison.objects.filter(
        prompt=OuterRef("pk"), purpose__in=Comparison.OFFERED
    ).exclude(state=Comparison.State.WITHDRAWN)
    # Counting is dear with a million comparisons and needless while a prompt is new.
    unused = list(free.filter(~Exists(used)).order_by("sha256")[:count])
    if len(unused) == count:
        return unused
    uses = Count(
        "comparisons",
        filter=~Q(comparisons__state="withdrawn")
        & Q(comparisons__purpose__in=Comparison.OFFERED),
    )
    again = free.annotate(uses=uses).filter(uses__gt=0).order_by("uses", "sha256")
    return unused + list(again[: count - len(unused)])


def _make(project: Project, policy: Policy, orders: list[_Order]) -> int:
    """Sample all pairs at once, store each as it comes; InferenceError ends it."""
    settings = project_settings.of(project)
    sampling = dict(settings.sampling)
    system_prompt = sampling.pop("system_prompt", "")
    params = SamplingParams.from_dict(sampling)
    made, fault = 0, None
    with ThreadPoolExecutor(max_workers=len(orders)) as pool:
        pairs = {
            pool.submit(
                _sample, policy, with_system(order.messages, system_prompt), params
            ): order
            for order in orders
        }
        for pair in as_completed(pairs):
            order = pairs[pair]
            try:
                sampled = pair.result()
            except InferenceError as error:
                if isinstance(error, IdenticalAnswers):
                    logger.info("Prompt %d rests: %s", order.prompt_id, error)
                    _rest(order)
                    continue
                if error.permanent:
                    _rest(order)
                fault = error
                continue
            quota = judgments_wanted(
                settings, order.messages, [answer.text for answer in sampled]
            )
            made += _store(project, policy, order, sampled, system_prompt, quota)
    if fault is not None and not made:
        raise fault
    return made


def with_system(messages: list[dict], system_prompt: str) -> list[dict]:
    """The project's system prompt first, unless the prompt brings its own."""
    if not system_prompt or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def _sample(policy: Policy, messages: list[dict], params: SamplingParams):
    try:
        return inference.generate_pair(policy, messages, params)
    finally:
        connections.close_all()  # This thread's own.


def _rest(order: _Order) -> None:
    StockReservation.objects.filter(pk=order.reservation_id).update(
        is_resting=True, until=timezone.now() + RESTS_FOR
    )


def _store(
    project, policy, order: _Order, sampled, system_prompt: str, quota: int
) -> bool:
    """False where another policy serves by now: nobody is offered what it answered."""
    with transaction.atomic():
        if not Channel.objects.filter(pk=project.channel_id, serving=policy).exists():
            return False
        a, b = (
            Completion.objects.create(
                prompt_id=order.prompt_id,
                source=Completion.Source.SAMPLED,
                text=answer.text,
                html=render_markdown(answer.text),
                policy=policy,
                sampling=answer.sampling
                | ({"system_prompt": system_prompt} if system_prompt else {}),
                seed=answer.seed,
                finish_reason=answer.finish_reason,
                prompt_token_ids=answer.prompt_token_ids,
                token_ids=answer.token_ids,
                logprobs=answer.logprobs,
            )
            for answer in sampled
        )
        comparison = Comparison.objects.create(
            project=project, prompt_id=order.prompt_id, a=a, b=b, policy=policy
        )
        Slot.objects.bulk_create(
            Slot(comparison=comparison, number=number) for number in range(1, quota + 1)
        )
        StockReservation.objects.filter(pk=order.reservation_id).delete()
        return True


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
        for start in range(0, len(ids), 500):
            _withdraw(ids[start : start + 500], now)
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

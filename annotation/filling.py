"""Filling the stock: pairs sampled from the policy that serves, stored as they come.

One worker fills a project, and keeps as many pairs asked for as the servers sample
together: where some have come, the next are asked for at once, so no server waits for
the longest of a batch. What the stock is, and when it is short, is stock.py's.
"""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import connections, transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from annotation import project_settings, shutdown
from annotation.models import (
    Comparison,
    Completion,
    Project,
    Prompt,
    Slot,
    StockReservation,
)
from annotation.overlap import judgments_wanted
from annotation.project_settings import ProjectSettings
from annotation.rendering import render_markdown
from annotation.stock import (
    RESERVED_FOR,
    RESTS_FOR,
    being_made,
    fresh,
    is_over,
    with_system,
    withdraw_stock,
)
from inference import queries as inference_queries
from inference import services as inference
from inference.errors import IdenticalAnswers, InferenceError
from inference.models import Channel, Policy, Replica
from inference.sampling import SamplingParams

logger = logging.getLogger(__name__)

RENEWED_EVERY = 10.0
REFUSED_IN_A_ROW = 8
"""So many prompts refused one after another: it is not the prompts."""

Pair = tuple[inference.Sampled, inference.Sampled]


@dataclass(frozen=True)
class _Order:
    """One comparison to be made, and with what."""

    project: Project
    settings: ProjectSettings
    policy: Policy
    prompt: Prompt
    reservation_id: int

    @property
    def system_prompt(self) -> str:
        return self.settings.sampling.get("system_prompt", "")


def fill_stock(project: Project) -> int:
    """Make what is missing with the policy that serves; how many were made.

    None where another worker is at it: it makes what is missing by then as well.
    Comparisons that an earlier policy left behind are withdrawn first. Where the model
    can't be reached, it stops with a logged sentence once all it has asked for has
    ended; the beat comes again. So it does, without one, where its worker is to stop.
    """
    together = inference_queries.pairs_at_once()
    made, refused, renewed_at = 0, 0, time.monotonic()
    fault: InferenceError | None = None
    asked: dict[Future[Pair], _Order] = {}
    few = 0  # It looks for what is missing where no more than these are asked for.
    with _announced(asked), ThreadPoolExecutor(together) as pool:
        while True:
            if time.monotonic() > renewed_at + RENEWED_EVERY:
                renewed_at, few = time.monotonic(), len(asked)
                until = timezone.now() + RESERVED_FOR
                _reserved(*asked.values()).update(until=until)
            if len(asked) <= few and fault is None and not shutdown.requested():
                fault = _ask(pool, project, together, asked)
                # Once a quarter has come: a look costs as much as storing a pair.
                few = len(asked) * 3 // 4
            if not asked:
                break
            done = wait(asked, RENEWED_EVERY, FIRST_COMPLETED).done
            if not done:
                continue
            pair = done.pop()
            is_stored, error = _settle(asked[pair], pair)
            del asked[pair]
            made += is_stored
            refused = refused + 1 if error else 0
            if error and (not error.permanent or refused == REFUSED_IN_A_ROW):
                fault = error
    if fault is not None:
        more = "more " if made else ""
        logger.warning("No %scomparisons made for %s: %s", more, project.slug, fault)
    return made


@contextmanager
def _announced(asked: dict[Future[Pair], _Order]) -> Iterator[None]:
    """What is still asked for when this ends, by a fault of ours, is announced no more."""
    try:
        yield
    finally:
        _give_up(*asked.values())


def _ask(
    pool: ThreadPoolExecutor,
    project: Project,
    together: int,
    asked: dict[Future[Pair], _Order],
) -> InferenceError | None:
    """Send what is missing to the servers, into `asked`; why not, if none is ready."""
    policy = inference_queries.serving_policy(project.channel)
    withdraw_stock(project, keep=policy)
    orders = _reserve(project, policy, together, is_first=not asked)
    if not orders:
        return None
    try:
        servers = inference.servers_for(policy)
    except InferenceError as error:
        _give_up(*orders)
        return error
    asked |= {pool.submit(_sample, order, servers): order for order in orders}
    return None


def _reserve(
    project: Project, policy: Policy, together: int, is_first: bool
) -> list[_Order]:
    """Announce what is missing, of the prompts used least so far; `is_first`: if no
    other worker is at it.

    Among equally used prompts the order is that of their hashes: random to people,
    the same on every run. Projects that are short at the same time share the servers.
    """
    with transaction.atomic():
        # One worker at a time counts what is missing and says what it takes. Its
        # settings are those of now: a worker may be at it for hours.
        found = Project.objects.select_for_update(no_key=True).filter(pk=project.pk)
        if (project := found.first()) is None:
            return []
        now = timezone.now()
        StockReservation.objects.filter(is_over(now), project=project).delete()
        making = being_made(now)
        own = making.filter(project=project).count()
        if is_first and own:
            return []
        others = making.exclude(project=project).values("project").distinct().count()
        share = max(1, together // (1 + others))
        settings = project_settings.of(project)
        # Counted after `own`: what is stored meanwhile counts twice, never not at all.
        wanted = min(settings.stock - fresh(project), share) - own
        if wanted <= 0:
            return []
        prompts = list(_least_used(project, wanted))
        reservations = StockReservation.objects.bulk_create(
            StockReservation(project=project, prompt=prompt, until=now + RESERVED_FOR)
            for prompt in prompts
        )
    return [
        _Order(project, settings, policy, prompt, reservation.pk)
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


def _sample(order: _Order, servers: list[Replica]) -> Pair:
    params = SamplingParams.from_dict(order.settings.sampling)
    messages = with_system(order.prompt.messages, order.system_prompt)
    try:
        return inference.generate_pair(order.policy, messages, params, servers)
    finally:
        connections.close_all()  # This thread's own, where it had to load an adapter.


def _reserved(*orders: _Order) -> QuerySet[StockReservation]:
    ids = [order.reservation_id for order in orders]
    return StockReservation.objects.filter(pk__in=ids, is_resting=False)


def _settle(order: _Order, pair: Future[Pair]) -> tuple[bool, InferenceError | None]:
    """Store the pair, or set its prompt aside; whether it was stored, and what refused."""
    try:
        return _store(order, pair.result()), None
    except IdenticalAnswers as error:
        logger.info("Prompt %d rests: %s", order.prompt.pk, error)
        _rest(order)
        return False, None
    except InferenceError as error:
        (_rest if error.permanent else _give_up)(order)
        return False, error


def _give_up(*orders: _Order) -> int:
    """How many of them were still announced."""
    return _reserved(*orders).delete()[0]


def _rest(order: _Order) -> None:
    StockReservation.objects.filter(pk=order.reservation_id).update(
        is_resting=True, until=timezone.now() + RESTS_FOR
    )


def _store(order: _Order, sampled: Pair) -> bool:
    """False where another policy serves by now: nobody is offered what it answered.

    Nor is it stored where the announcement is gone: this worker stood still for so long
    that another one took over, and has made what was missing.
    """
    texts = [answer.text for answer in sampled]
    quota = judgments_wanted(order.settings, order.prompt.messages, texts)
    system = {"system_prompt": order.system_prompt} if order.system_prompt else {}
    project, policy = order.project, order.policy
    # Rendered before the transaction: whoever judges waits for SQLite's one writer.
    answers = [
        Completion(
            prompt=order.prompt,
            source=Completion.Source.SAMPLED,
            text=answer.text,
            html=render_markdown(answer.text),
            policy=policy,
            sampling=answer.sampling | system,
            seed=answer.seed,
            finish_reason=answer.finish_reason,
            prompt_token_ids=answer.prompt_token_ids,
            token_ids=answer.token_ids,
            logprobs=answer.logprobs,
        )
        for answer in sampled
    ]
    with transaction.atomic():
        if not _give_up(order):
            return False
        if not Channel.objects.filter(pk=project.channel_id, serving=policy).exists():
            return False
        a, b = Completion.objects.bulk_create(answers)
        comparison = Comparison.objects.create(
            project=project, prompt=order.prompt, a=a, b=b, policy=policy
        )
        Slot.objects.bulk_create(
            Slot(comparison=comparison, number=number) for number in range(1, quota + 1)
        )
        return True

"""What other pairs say of a pair: similar prompts, the opposite preference.

Each look costs a few indexed queries, however many pairs there are; the comparing itself
is pure (rules/likeness.py). Who came first: the pair with the smaller id.
"""

import hashlib
from collections import Counter, deque
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from annotation.models import PreferencePair, Prompt, PromptBand, RuleVerdict
from annotation.rules.likeness import bands, likeness, runs

MAX_ROWS = 500
"""Rows of the index looked at; where more prompts share a band, some are missed."""
MAX_PROMPTS = 20
"""Prompts compared letter by letter: those that share the most bands."""

State = PreferencePair.State


def last_said(messages: list[dict[str, Any]]) -> str:
    """What the user said last, as text; empty where no user spoke."""
    said = [plain_content(m) for m in messages if _role(m) == "user"]
    return said[-1] if said else ""


def _role(message: Any) -> str:
    return str(message.get("role")) if isinstance(message, dict) else ""


def plain_content(message: Any) -> str:
    """A message's text, whatever its shape; of content in parts, those that are text."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        return "\n".join(
            str(part.get("text") or "") for part in content if isinstance(part, dict)
        )
    return "" if content is None else str(content)


def note(pair: PreferencePair, chosen: str, rejected: str) -> None:
    """Write down what makes the pair comparable: its texts' hashes, its prompt's bands,
    and the most similar other prompt whose accepted pair came first."""
    known = (
        pair.chosen_hash,
        pair.rejected_hash,
        pair.near_likeness,
        pair.near_pair_id,
    )
    pair.chosen_hash, pair.rejected_hash = _hash(chosen), _hash(rejected)
    pair.near_likeness, pair.near_pair_id = _nearest(pair)
    fields = ["chosen_hash", "rejected_hash", "near_likeness", "near_pair"]
    if known != tuple(
        getattr(pair, PreferencePair._meta.get_field(name).attname) for name in fields
    ):
        pair.save(update_fields=fields)


def _hash(text: str) -> int:
    """64 bits of a text, whitespace at both ends aside."""
    digest = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _nearest(pair: PreferencePair) -> tuple[float, int | None]:
    whole, last = _texts(pair.prompt.messages)
    values = bands(whole)
    found = PromptBand.objects.filter(project_id=pair.project_id, value__in=values)
    shared = Counter(found.values_list("prompt", flat=True)[:MAX_ROWS])
    if shared.pop(pair.prompt_id, 0) < len(values):
        PromptBand.objects.bulk_create(
            [
                PromptBand(
                    project_id=pair.project_id, prompt_id=pair.prompt_id, value=value
                )
                for value in values
            ],
            ignore_conflicts=True,
        )
    if not shared:
        return 0.0, None
    earlier = PreferencePair.objects.filter(
        prompt=OuterRef("pk"), state=State.ACCEPTED, superseded_at=None, pk__lt=pair.pk
    ).order_by("pk")
    prompts = Prompt.objects.filter(
        pk__in=[prompt for prompt, _count in shared.most_common(MAX_PROMPTS)]
    ).annotate(first_pair=Subquery(earlier.values("pk")[:1]))
    mine = runs(whole), runs(last)
    most: tuple[float, int | None] = (0.0, None)
    for prompt in prompts.filter(first_pair__isnull=False).order_by("first_pair"):
        other = [runs(text) for text in _texts(prompt.messages)]
        # A long conversation in common says nothing of the question asked last.
        like = min(likeness(mine[0], other[0]), likeness(mine[1], other[1]))
        if like > most[0]:
            most = like, prompt.first_pair
    return most


def _texts(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """All but system messages (many prompts share those), and what was said last."""
    said = [plain_content(m) for m in messages if _role(m) != "system"]
    return "\n".join(said), last_said(messages)


def counts(pair: PreferencePair) -> tuple[int, int]:
    """(agreeing, opposing) standing pairs, this one included; see PairFacts.

    Two texts that are the same contradict nothing: that they are has a rule of its own.
    """
    found = _alike(pair).aggregate(
        agreeing=Count("pk", filter=Q(chosen_hash=pair.chosen_hash)),
        opposing=Count("pk", filter=Q(chosen_hash=pair.rejected_hash)),
    )
    is_same = pair.chosen_hash == pair.rejected_hash
    return found["agreeing"], 0 if is_same else found["opposing"]


def _alike(pair: PreferencePair) -> QuerySet[PreferencePair]:
    """Standing pairs of the same two texts to the same prompt, whichever won."""
    one, other = pair.chosen_hash, pair.rejected_hash
    return PreferencePair.objects.filter(
        Q(chosen_hash=one, rejected_hash=other)
        | Q(chosen_hash=other, rejected_hash=one),
        prompt=pair.prompt_id,
        superseded_at=None,
    )


def with_counts(pairs: QuerySet[PreferencePair]) -> QuerySet[PreferencePair]:
    """The pairs with `n_agreeing` and `n_opposing`, as `counts` has them."""
    here = PreferencePair.objects.filter(
        prompt=OuterRef("prompt"), superseded_at=None
    ).order_by()

    def number(of: QuerySet, chosen: str, rejected: str) -> Coalesce:
        alike = of.filter(
            chosen_hash=OuterRef(chosen), rejected_hash=OuterRef(rejected)
        )
        return Coalesce(
            Subquery(alike.values("prompt").annotate(n=Count("*")).values("n")), 0
        )

    return pairs.annotate(
        n_agreeing=number(here, "chosen_hash", "rejected_hash"),
        n_opposing=number(
            here.exclude(chosen_hash=F("rejected_hash")), "rejected_hash", "chosen_hash"
        ),
    )


def reopen_others(pair: PreferencePair, agreeing: int, opposing: int) -> None:
    """Have pairs checked again whose stored verdict this pair made untrue."""
    if not opposing:
        return
    for chosen, is_lost in (
        (pair.chosen_hash, opposing >= agreeing),
        (pair.rejected_hash, agreeing >= opposing),
    ):
        wrong = RuleVerdict.objects.filter(
            pair=OuterRef("pk"),
            rule="contradiction",
            result="pass" if is_lost else "reject",
        )
        _unfrozen(_alike(pair).filter(Exists(wrong), chosen_hash=chosen)).exclude(
            pk=pair.pk
        ).update(state=State.UNCHECKED)


def reopen_stale() -> int:
    """Have pairs checked again whose rejection named a pair that no longer stands (taken
    back, repaired, rejected since); how many."""
    objections = RuleVerdict.objects.filter(result="reject")
    near = objections.filter(rule="near_duplicate").exclude(
        pair__near_pair__state=State.ACCEPTED, pair__near_pair__superseded_at=None
    )
    opposed = with_counts(
        _unfrozen(
            PreferencePair.objects.filter(
                pk__in=objections.filter(rule="contradiction").values("pair")
            )
        )
    )
    opposed_no_more = [
        found.pk
        for found in opposed.only("pk")
        if found.n_opposing < found.n_agreeing  # type: ignore[attr-defined]
    ]
    stale = _unfrozen(
        PreferencePair.objects.filter(
            Q(pk__in=near.values("pair")) | Q(pk__in=opposed_no_more[:MAX_ROWS])
        )
    )
    with transaction.atomic():
        lock(stale)
        return stale.update(state=State.UNCHECKED)


def lock(pairs: QuerySet[PreferencePair]) -> None:
    """Until the transaction ends: prompts before pairs and each in its order, as those
    who store checks or freeze pairs do. Else two that hold some rows each may wait for
    the other's."""
    if not connection.features.has_select_for_update:
        return
    prompts = Prompt.objects.filter(pk__in=pairs.values("prompt"))
    for rows in (prompts, pairs):
        ids = rows.select_for_update(no_key=True).order_by("pk").values_list("pk")
        deque(ids.iterator(), maxlen=0)  # However many: none is kept.


def _unfrozen(pairs: QuerySet[PreferencePair]) -> QuerySet[PreferencePair]:
    """Of these, the checked ones that may still change."""
    return pairs.filter(superseded_at=None, frozen_at=None).exclude(
        state=State.UNCHECKED
    )

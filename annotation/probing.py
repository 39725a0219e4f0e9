"""Probes: gold and repeats, mixed in where an annotator asks for the next comparison.

A probe is made the moment it is handed out or reserved ahead, for that annotator alone,
with one slot.
Each of their judgments is a draw, by a hash with the secret key: nobody can foresee it,
and tests can repeat it. Leaves out granting the slot (leasing.py) and what the answers
say (trust.py).
"""

from datetime import timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from annotation.models import (
    Comparison,
    GoldItem,
    Judgment,
    Lease,
    Probe,
    Project,
    Slot,
)
from annotation.project_settings import ProjectSettings

REPEAT_GAP = 20
"""Judgments made since the one that is repeated, at least."""

REPEAT_AGE = timedelta(hours=1)
"""What was seen a moment ago is remembered, not judged again."""

REPEAT_AMONG = 50
"""The repeated one is drawn from so many."""


def mixes_in(own: ProjectSettings) -> bool:
    return bool(own.gold_rate or own.repeat_rate)


def slot_for(project: Project, annotator: Any, own: ProjectSettings) -> Slot | None:
    """The slot of a probe that is due for this annotator; None for nearly always.

    Inside a transaction. IntegrityError where another tab made it at the same moment.
    No query while the project mixes nothing in. Where nothing is due two by an index,
    which take a third of the time that Django needs to put one together of both.
    """
    if not mixes_in(own):
        return None
    mine: dict[str, Any] = {"project": project, "annotator": annotator}
    last = (
        Judgment.objects.filter(**mine)
        .order_by("-created_at")
        .values_list("pk", "probe_after")
        .first()
    )
    if last is None:
        return None
    newest = (
        Probe.objects.filter(**mine)
        .order_by("-pk")
        .values_list(
            "comparison__state", "comparison__slots__state", "comparison__slots"
        )
        .first()
    )
    if newest and newest[:2] == (Comparison.State.OPEN, Slot.State.OPEN):
        # An undo took its place on the desk: it comes back, as any other pair would.
        return Slot.objects.select_related("comparison").get(pk=newest[2])
    after, drawn = last
    if drawn is not None:
        return None
    kind, pick = draw(annotator.pk, after, own)
    if kind == Comparison.Purpose.GOLD:
        return _gold(project, annotator, after, pick)
    if kind == Comparison.Purpose.REPEAT:
        return _repeat(project, annotator, after, pick)
    return None


def draw(
    annotator_id: int, judgment_id: Any, own: ProjectSettings
) -> tuple[str | None, int]:
    """What the annotator's judgment is followed by (gold, repeat or None), and a number
    to pick it by: the same at every asking, and unguessable without the secret key."""
    seed = f"{annotator_id}:{judgment_id}"
    digest = salted_hmac("annotation.probe", seed, algorithm="sha256").digest()
    chance = int.from_bytes(digest[:8], "big") / 2**64
    pick = int.from_bytes(digest[8:16], "big")
    if chance < own.gold_rate:
        return Comparison.Purpose.GOLD, pick
    if chance < own.gold_rate + own.repeat_rate:
        return Comparison.Purpose.REPEAT, pick
    return None, pick


def _gold(project: Project, annotator: Any, after: Any, pick: int) -> Slot | None:
    """One they have never met: neither as gold, under a retired item with the same
    answers either, nor where it was first judged."""
    met = Probe.objects.filter(
        gold__sha256=OuterRef("sha256"), project=project, annotator=annotator
    )
    seen_before = Lease.objects.filter(
        annotator=annotator, comparison=OuterRef("source")
    )
    unseen = (
        GoldItem.objects.filter(
            ~Exists(met),
            ~Exists(seen_before),
            project=project,
            retired_at=None,
        )
        .exclude(author=annotator)
        .order_by("pk")
    )
    ids = list(unseen.values_list("pk", flat=True))
    if not ids:
        return None
    gold = GoldItem.objects.get(pk=ids[pick % len(ids)])
    comparison = Comparison.objects.create(
        project=project,
        prompt_id=gold.prompt_id,
        a_id=gold.a_id,
        b_id=gold.b_id,
        purpose=Comparison.Purpose.GOLD,
    )
    return _made(comparison, annotator, after, gold=gold)


def _repeat(project: Project, annotator: Any, after: Any, pick: int) -> Slot | None:
    """One of their own that stands, old enough, of those just before the last few."""
    recent = (
        Judgment.objects.filter(project=project, annotator=annotator)
        .order_by("-created_at")
        .values_list("pk", flat=True)[REPEAT_GAP : REPEAT_GAP + REPEAT_AMONG]
    )
    fit = Judgment.objects.filter(
        Q(comparison__purpose__in=Comparison.OFFERED),
        ~Exists(Probe.objects.filter(repeats=OuterRef("pk"))),
        pk__in=list(recent),
        undone_at=None,
        created_at__lt=timezone.now() - REPEAT_AGE,
    ).order_by("created_at")
    ids = list(fit.values_list("pk", flat=True))
    if not ids:
        return None
    earlier = Judgment.objects.select_related("lease", "comparison").get(
        pk=ids[pick % len(ids)]
    )
    # `a` of a repeat is what is shown first: the side that was second then.
    comparison = Comparison.objects.create(
        project=project,
        prompt_id=earlier.comparison.prompt_id,
        policy_id=earlier.comparison.policy_id,
        a_id=earlier.lease.second_id,
        b_id=earlier.lease.first_id,
        purpose=Comparison.Purpose.REPEAT,
    )
    return _made(comparison, annotator, after, repeats=earlier)


def _made(comparison: Comparison, annotator: Any, after: Any, **kind: Any) -> Slot:
    Probe.objects.create(
        project_id=comparison.project_id,
        annotator=annotator,
        comparison=comparison,
        after_id=after,
        **kind,
    )
    return Slot.objects.create(comparison=comparison, number=1)


def end_skipped(comparison: Comparison) -> None:
    """A probe that its annotator skipped is for nobody else: it is withdrawn.

    The comparison is locked, its slot still held; any other purpose is left as it is.
    """
    if comparison.purpose in Comparison.OFFERED:
        return
    now = timezone.now()
    ended = Comparison.objects.filter(
        pk=comparison.pk, state=Comparison.State.OPEN
    ).update(state=Comparison.State.WITHDRAWN, withdrawn_at=now)
    if ended:
        comparison.state, comparison.withdrawn_at = Comparison.State.WITHDRAWN, now
        Slot.objects.filter(comparison=comparison, state=Slot.State.OPEN).update(
            state=Slot.State.WITHDRAWN
        )

"""Leases: one annotator's short, expiring claim on one comparison.

A lease takes a slot by a conditional UPDATE, an expired one's slot the same way, so
leases and judgments together never exceed the quota. The shown order and the ids the
page carries are made here; which comparisons are offered is in waiting.py, what is shown
of a lease in showing.py, judging in judging.py, how it ends otherwise in ending.py,
reserving a second lease ahead of the first in reserving.py.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac

from annotation import probing, project_settings, sql, waiting
from annotation.ending import end, put_back
from annotation.models import (
    Comparison,
    Lease,
    Project,
    Slot,
)
from annotation.probing import mixes_in
from annotation.project_settings import ProjectSettings
from annotation.showing import lease_where, new_lease
from annotation.stock import nudge

_ROOM = f"""
SELECT s.id, s.lease_id, o.column1
FROM (VALUES {", ".join(f"({place}, %s)" for place in range(waiting.WINDOW))}) AS o
JOIN annotation_slot s ON s.comparison_id = o.column2
WHERE {waiting.FREE} AND {waiting.NOT_JUDGED.format("s.comparison_id")}
ORDER BY o.column1, s.number LIMIT 1"""
_TAKE = """
UPDATE annotation_slot SET state = 'leased', lease_id = %s, expires_at = %s
WHERE id = %s AND (state = 'open' OR (state = 'leased' AND lease_id = %s))"""
_HELD = """l.key = COALESCE(
(SELECT key FROM annotation_lease WHERE project_id = %s AND annotator_id = %s
    AND outcome = ''),
(SELECT key FROM annotation_lease WHERE project_id = %s AND annotator_id = %s
    AND outcome = 'ahead'))"""
_AHEAD = """
SELECT key FROM annotation_lease
WHERE project_id = %s AND annotator_id = %s AND outcome = 'ahead'"""
_KEEP = f"""
UPDATE annotation_slot SET expires_at = %s WHERE lease_id = %s AND state = 'leased'
AND EXISTS (SELECT 1 FROM annotation_comparison c
    WHERE c.id = annotation_slot.comparison_id AND c.state = 'open' LIMIT 1 OFFSET 0)
AND {waiting.NOT_JUDGED.format("annotation_slot.comparison_id")}
AND {waiting.NOT_SKIPPED.format("annotation_slot.comparison_id")}"""
_ACTIVATE = """
UPDATE annotation_lease SET outcome = '', created_at = %s, expires_at = %s
WHERE key = %s AND outcome = 'ahead'"""
NOBODY = uuid.UUID(int=0)


def take_lease(project: Project, annotator) -> Lease | None:
    """The lease held, else the one reserved ahead, else one on the next comparison
    waiting for this annotator.

    None where nothing waits that they haven't judged or skipped. `lease.is_new` says
    whether it came to them now.
    """
    own = project_settings.of(project)
    for _attempt in range(3):
        held = _held(project, annotator, own.lease_minutes)
        if held is not None and held.outcome == Lease.Outcome.ACTIVE:
            held.is_new = False
            return held
        try:
            key = _bring(held, annotator, own) if held is not None else None
            key = key or _claim_waiting(project, annotator, own)
        except IntegrityError:
            continue  # Another tab was quicker: what it took is held now.
        nudge(project)
        if key is not None:
            return new_lease(project, key)
        # Another tab may have been given a probe since we looked, which nothing refuses.
        held = _held(project, annotator, own.lease_minutes) if mixes_in(own) else None
        if held is None or held.outcome != Lease.Outcome.ACTIVE:
            return None
        held.is_new = False
        return held
    return None


def active_leases(project: Project, annotator) -> QuerySet[Lease]:
    return Lease.objects.filter(
        project=project, annotator=annotator, outcome=Lease.Outcome.ACTIVE
    )


def free_slots(now: datetime) -> Q:
    """Slots that may be taken: open, or leased by somebody whose time is over."""
    return Q(state=Slot.State.OPEN) | Q(state=Slot.State.LEASED, expires_at__lte=now)


def shows_a_first(annotator_id: int, comparison_id: int) -> bool:
    """The same answer for every visit, and unguessable without the secret key."""
    digest = salted_hmac("annotation.shown-order", f"{annotator_id}:{comparison_id}")
    return bool(digest.digest()[0] & 1)


def _held(project: Project, annotator, minutes: float) -> Lease | None:
    """The active lease, its time prolonged when less than half is left; where there is
    none the one reserved ahead, as it is."""
    lease = lease_where(project, _HELD, *[project.pk, annotator.pk] * 2)
    if lease is None or lease.outcome == Lease.Outcome.AHEAD:
        return lease
    now = timezone.now()
    if lease.expires_at - now > timedelta(minutes=minutes) / 2:
        return lease
    until = now + timedelta(minutes=minutes)
    with transaction.atomic():
        ours = Slot.objects.filter(lease=lease, state=Slot.State.LEASED)
        if not ours.update(expires_at=until):
            return None  # Reclaimed or judged between the two looks.
        Lease.objects.filter(pk=lease.pk).update(expires_at=until)
    lease.expires_at = until
    return lease


def reserved(project: Project, annotator) -> Lease | None:
    """The lease reserved ahead, whether or not it may still be shown."""
    for (key,) in sql.rows(_AHEAD, project.pk, annotator.pk):
        return lease_where(project, "l.key = %s", key)
    return None


def keep(key: uuid.UUID | str, annotator_id: int, until: datetime) -> bool:
    """Give a reserved lease's slot until then; whether it may still be shown.

    Not where another has the slot by now, the comparison was withdrawn, or the
    annotator has met it by another lease. Before the lease's own row, as all do.
    """
    return bool(sql.changed(_KEEP, until, key, annotator_id, annotator_id))


def activate(
    project: Project, annotator_id: int, now: datetime, minutes: float
) -> uuid.UUID | None:
    """Bring the lease reserved ahead to the desk, in this transaction: its key, or None.

    Its time, and that of the judgment, count from now. IntegrityError where they hold
    another active lease.
    """
    for (key,) in sql.rows(_AHEAD, project.pk, annotator_id):
        until = now + timedelta(minutes=minutes)
        if keep(key, annotator_id, until) and sql.changed(_ACTIVATE, now, until, key):
            return uuid.UUID(str(key))
    return None


def _bring(lease: Lease, annotator, own: ProjectSettings) -> uuid.UUID | None:
    """The lease reserved ahead, brought to the desk; None where it is lost."""
    with transaction.atomic():
        key = activate(lease.project, annotator.pk, timezone.now(), own.lease_minutes)
    if key is None:
        put_back(lease)
    return key


def claim_probe(
    project: Project,
    annotator,
    own: ProjectSettings,
    now: datetime,
    outcome: str,
) -> uuid.UUID | None:
    """Make and lease a probe in this transaction, where one is due."""
    slot = probing.slot_for(project, annotator, own)
    if slot is None:
        return None
    until = now + timedelta(minutes=own.lease_minutes)
    key = _take(slot.pk, slot.lease_id, until)
    if key is not None:
        make_lease(slot.comparison, annotator.pk, key, until, outcome)
    return key


def claim_next(
    project: Project,
    annotator,
    own: ProjectSettings,
    found: Sequence[tuple],
    now: datetime,
    outcome: str = Lease.Outcome.ACTIVE,
) -> uuid.UUID | None:
    """In this transaction, a probe where one is due, else what `claim` gives of `found`."""
    probe = claim_probe(project, annotator, own, now, outcome)
    return probe or claim(found, annotator.pk, now, own.lease_minutes, outcome)


def _claim_waiting(
    project: Project, annotator, own: ProjectSettings
) -> uuid.UUID | None:
    tried: list[int] = []
    while True:
        now = timezone.now()
        found = waiting.offers(project, annotator.pk, own.next_comparison, now, tried)
        if not found and not mixes_in(own):
            return None
        with transaction.atomic():
            # Once a probe was looked for, those that wait are all that is left.
            key = (
                claim(found, annotator.pk, now, own.lease_minutes)
                if tried
                else claim_next(project, annotator, own, found, now)
            )
        if key is not None or len(found) < waiting.WINDOW:
            return key
        tried += [offer[0] for offer in found]


def claim(
    found: Sequence[tuple],
    annotator_id: int,
    now: datetime,
    minutes: float,
    outcome: str = Lease.Outcome.ACTIVE,
) -> uuid.UUID | None:
    """Take a slot of the first offer that still has one: the new lease's key, or None.

    The one place where somebody is handed a comparison, inside the transaction that
    may have stored their last judgment. The lease is active, or AHEAD of that which is.
    IntegrityError where they hold another of the same kind.
    """
    if not found:
        return None
    # A slot that somebody is taking just now is passed over, not waited for.
    room = _ROOM + sql.for_update("s", skip_locked=True)
    offered = [offer[0] for offer in found]
    offered += [0] * (waiting.WINDOW - len(found))  # No comparison has it.
    for slot_id, ended, place in sql.rows(room, *offered, now, annotator_id):
        until = now + timedelta(minutes=minutes)
        key = _take(slot_id, ended, until)
        if key is not None:
            if ended is not None:
                end(ended, Lease.Outcome.EXPIRED, now)
            taken = waiting.comparison_of(found[place])
            make_lease(taken, annotator_id, key, until, outcome)
            return key
    return None


def _take(
    slot_id: int, held_by: uuid.UUID | str | None, until: datetime
) -> uuid.UUID | None:
    """The key the slot is taken with; None where somebody was quicker."""
    key = uuid.uuid4()
    return key if sql.changed(_TAKE, key, until, slot_id, held_by or NOBODY) else None


def make_lease(
    comparison: Comparison,
    annotator_id: int,
    key: uuid.UUID,
    until: datetime,
    outcome: str = Lease.Outcome.ACTIVE,
) -> None:
    """The lease's row for a slot that already names its key."""
    first, second = comparison.a_id, comparison.b_id
    # A repeat was made with the sides as they are to be shown.
    is_repeat = comparison.purpose == Comparison.Purpose.REPEAT
    if not is_repeat and not shows_a_first(annotator_id, comparison.pk):
        first, second = second, first
    sql.insert(
        Lease(
            key=key,
            project_id=comparison.project_id,
            comparison=comparison,
            annotator_id=annotator_id,
            first_id=first,
            second_id=second,
            expires_at=until,
            outcome=outcome,
        )
    )

"""Leases: one annotator's short, expiring claim on one comparison.

A lease takes a slot by a conditional UPDATE, an expired one's slot the same way, so
leases and judgments together never exceed the quota. The shown order and the ids the
page carries are made here; which comparisons are offered is in waiting.py, judging in
judging.py, reserving a second lease ahead of the first in reserving.py.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.http import Http404
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from annotation import probing, project_settings, sql, texts, waiting
from annotation.deciding import decide_locked, locked
from annotation.errors import AlreadyUndone, InvalidJudgment, Refused
from annotation.models import (
    Comparison,
    Completion,
    Judgment,
    Lease,
    Project,
    Prompt,
    Slot,
)
from annotation.probing import mixes_in
from annotation.project_settings import ProjectSettings
from annotation.stock import nudge, with_system

# What a page shows of a lease, without tokens and log-probs. The rest is fetched when
# somebody asks for it.
_LEASE = sql.Columns(Lease, "l")
_PROJECT = sql.Columns(
    Project, "p", "id", "slug", "name", "channel", "base", "settings"
)
_SHOWN = [
    _LEASE,
    sql.Columns(
        Comparison, "c", "id", "prompt", "a", "b", "policy", "purpose", "state"
    ),
    sql.Columns(Prompt, "q", "id", "project", "messages"),
    *(
        sql.Columns(
            Completion, side, "id", "prompt", "text", "html", "html_version", "sampling"
        )
        for side in ("f", "s")
    ),
]
_LEASES_SHOWN = f"""
SELECT {", ".join(columns.sql for columns in _SHOWN)}
FROM annotation_lease l
JOIN annotation_comparison c ON c.id = l.comparison_id
JOIN annotation_prompt q ON q.id = c.prompt_id
JOIN annotation_completion f ON f.id = l.first_id
JOIN annotation_completion s ON s.id = l.second_id
WHERE """
_OWN_LEASE = f"""
SELECT m.id, {_LEASE.sql}, {_PROJECT.sql}
FROM annotation_lease l
JOIN annotation_project p ON p.id = l.project_id
LEFT JOIN annotation_membership m ON m.project_id = p.id AND m.user_id = l.annotator_id
WHERE l.key = %s AND l.annotator_id = %s
"""
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
ENDED_AT_ONCE = 500
MAX_REASON = 10_000
"""Characters of a skip's reason: as many as the comment has that it may have been."""


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


def new_lease(project: Project, key: uuid.UUID) -> Lease:
    """A lease that this request has made, with what a page shows of it."""
    lease = _shown(project, "l.key = %s", key)
    assert lease is not None, "made just now"
    lease.is_new = True
    return lease


def lease_for(user, key: uuid.UUID | str) -> Lease:
    """The user's own lease, whatever its outcome; Http404 for anybody else's.

    It brings its project along; what a page shows is fetched where it is asked for.
    """
    try:
        key = key if isinstance(key, uuid.UUID) else uuid.UUID(key)
    except (ValueError, TypeError, AttributeError):
        raise Http404(_("There is no such lease.")) from None
    found = sql.rows(_OWN_LEASE, key, user.pk)
    may = found and user.is_active and (user.is_superuser or found[0][0] is not None)
    if not may:
        raise Http404(_("There is no such lease."))
    lease, project = _parts([_LEASE, _PROJECT], found[0][1:])
    lease.project = project
    return lease


def _shown(project: Project, condition: str, *params: Any) -> Lease | None:
    found = sql.rows(_LEASES_SHOWN + condition, *params)
    if not found:
        return None
    lease, comparison, prompt, first, second = _parts(_SHOWN, found[0])
    comparison.project = prompt.project = lease.project = project
    comparison.prompt = first.prompt = second.prompt = prompt
    lease.comparison, lease.first, lease.second = comparison, first, second
    return lease


def _parts(columns: Sequence[sql.Columns], row: Sequence[Any]) -> list[Any]:
    """The models' rows that one row of a joined SELECT holds, one after another."""
    parts, place = [], 0
    for part in columns:
        parts.append(part.row(row[place : place + len(part)]))
        place += len(part)
    return parts


def prompt_shown(lease: Lease) -> list[dict]:
    """What the answers answer: with the system prompt they were sampled with."""
    if lease.comparison.purpose == Comparison.Purpose.GOLD:
        # Gold may be imported, or older than today's: it must look like the others.
        sampling = project_settings.of(lease.project).sampling
    else:
        sampling = lease.first.sampling
    system_prompt = sampling.get("system_prompt", "")
    return with_system(lease.comparison.prompt.messages, system_prompt)


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
    lease = _shown(project, _HELD, *[project.pk, annotator.pk] * 2)
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
        return _shown(project, "l.key = %s", key)
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


def put_back(lease: Lease) -> None:
    """End a lease reserved ahead, and give its slot back."""
    _expire(lease.pk, lease.comparison_id, outcome=Lease.Outcome.AHEAD)


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
    outcome: str = Lease.Outcome.ACTIVE,
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


def end(lease_id: uuid.UUID | str, outcome: str, now: datetime, **fields) -> None:
    """Give a lease that was neither judged nor skipped its outcome."""
    unused = [*Lease.HELD, Lease.Outcome.EXPIRED]
    Lease.objects.filter(pk=lease_id, outcome__in=unused).update(
        outcome=outcome, ended_at=now, **fields
    )


def give_back(
    lease_id: uuid.UUID, comparison: Comparison, outcome: str, **fields
) -> None:
    """End a lease and open the slot that it may still have; of a comparison `locked` in
    this transaction. A withdrawn one's slot is withdrawn with it, and what was judged
    before then decides."""
    withdrawn = comparison.state == Comparison.State.WITHDRAWN
    Slot.objects.filter(lease=lease_id, state=Slot.State.LEASED).update(
        state=Slot.State.WITHDRAWN if withdrawn else Slot.State.OPEN,
        lease=None,
        expires_at=None,
    )
    end(lease_id, outcome, timezone.now(), **fields)
    if withdrawn:
        decide_locked(comparison)


def end_lapsed() -> int:
    """End leases that ran out on withdrawn comparisons, ENDED_AT_ONCE of a kind at most;
    how many. Their slots are withdrawn, and what was judged before decides.

    Elsewhere the next who takes the slot ends such a lease; a withdrawn comparison is
    offered to nobody. Repeating it changes nothing.
    """
    lapsed = {
        "comparison__state": Comparison.State.WITHDRAWN,
        "expires_at__lte": timezone.now(),
    }
    done = 0
    # Each kind by the index that holds no other: one row for each person at work. Those
    # reserved ahead end with the withdrawal, but for one reserved at that very moment.
    for outcome in Lease.HELD:
        found = Lease.objects.filter(outcome=outcome, **lapsed)
        for lease in found.values_list("pk", "comparison_id")[:ENDED_AT_ONCE]:
            done += _expire(*lease, outcome=outcome, **lapsed)
    return done


def _expire(lease_id: uuid.UUID, comparison_id: int, **still: Any) -> int:
    """End a lease by its time and give its slot back; 0 where it is not `still` so."""
    with transaction.atomic():
        comparison = locked(comparison_id)
        # Behind the slot's lock it can't be prolonged or on its way to the desk any more.
        list(Slot.objects.select_for_update(no_key=True).filter(lease=lease_id))
        if not Lease.objects.filter(pk=lease_id, **still).exists():
            return 0
        give_back(lease_id, comparison, Lease.Outcome.EXPIRED)
        return 1


def came_back() -> str:
    """What is said of a lease whose judgment was undone: in another tab, most likely."""
    return _(
        "You undid your judgment of this pair, and the pair came back to you anew."
        " This copy of it is closed."
    )


def skip(lease: Lease, reason: str = "", flag: str = "") -> None:
    """End the lease without a verdict; the comparison isn't offered to them again.

    `flag` (Lease.Flag) says that something is wrong with the pair, for reviewers to
    look at. Skipping twice changes nothing, but that a skip without a flag takes one
    that comes later, with its reason. Raises Refused (409) for a judged lease,
    InvalidJudgment (422) for a flag that is not known or says nothing, and for a reason
    that is too long to be kept whole.
    """
    if flag and flag not in Lease.Flag.values:
        raise InvalidJudgment(
            "flag",
            _("“flag” must be one of %(known)s.")
            % {"known": ", ".join(Lease.Flag.values)},
        )
    if flag == Lease.Flag.OTHER and not reason.strip():
        raise InvalidJudgment("reason", _("Say in a few words what is wrong."))
    problem = texts.problem(reason, MAX_REASON)
    if problem:
        raise InvalidJudgment("reason", _("The reason %(what)s.") % {"what": problem})
    with transaction.atomic():
        comparison = locked(lease.comparison_id)
        probing.end_skipped(comparison)
        said = {"skip_reason": reason, "flag": flag}
        give_back(lease.pk, comparison, Lease.Outcome.SKIPPED, **said)
        if flag:
            Lease.objects.filter(
                pk=lease.pk, outcome=Lease.Outcome.SKIPPED, flag=""
            ).update(**{name: value for name, value in said.items() if value})
        lease.refresh_from_db(fields=["outcome", "skip_reason", "flag", "ended_at"])
        if lease.outcome == Lease.Outcome.JUDGED:
            if not Judgment.objects.filter(lease=lease, undone_at=None).exists():
                raise AlreadyUndone(came_back())
            raise Refused(_("You have judged this pair already. Undo that first."))
    nudge(lease.project)

"""Judgments: submitted once, repeated safely, undone until a round has used them.

One short transaction each; what is acknowledged is committed. The lease's key makes a
repeat recognisable: same body, same answer; another body is refused. What may be in a
body is in judgment_body.py.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import Case, Q, When
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import ending, leasing, project_settings, showing, sql, trust, waiting
from annotation.access import role_of
from annotation.committing import committed
from annotation.deciding import (
    count_judgments,
    decide_locked,
    locked_all,
    locked_with_slot,
    reopen,
    standing_decision,
    supersede,
)
from annotation.errors import (
    AlreadyUndone,
    InvalidJudgment,
    OtherBody,
    Settled,
    TooLate,
)
from annotation.judgment_body import Body, checked, digest
from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Lease,
    Slot,
)
from annotation.stock import nudge


@dataclass(frozen=True)
class Submitted:
    judgment: Judgment
    is_replay: bool


def judgment_for(user, pk: uuid.UUID | str) -> Judgment:
    """The user's own judgment; Http404 for anybody else's."""
    try:
        judgment = Judgment.objects.select_related("project", "lease").get(
            pk=pk, annotator=user
        )
    except (Judgment.DoesNotExist, ValidationError, ValueError, TypeError):
        raise Http404(_("There is no such judgment.")) from None
    if role_of(user, judgment.project) is None:
        raise Http404(_("There is no such judgment."))
    return judgment


def submit_judgment(
    lease: Lease,
    *,
    verdict: str,
    strength: int | None = None,
    reasons: Sequence[str] = (),
    comment: str = "",
    edited: str = "",
    criteria: Mapping[str, str] | None = None,
) -> Submitted:
    """Store what the lease's annotator saw. A strength given with a tie is dropped.

    `criteria`: {criterion of the project: first, second or tie}, any of them or none.

    Raises InvalidJudgment (422), OtherBody (409: the key has another judgment) and
    TooLate (410: expired and every slot taken, skipped, or judged by another lease).
    """
    given = (verdict, strength, reasons, comment, edited, criteria)
    try:
        body = checked(lease, *given)
    except InvalidJudgment:
        # What was taken once is answered again, even if it would be refused today.
        replay = _replay(lease, digest(*given))
        if replay is not None:
            return replay
        raise
    return _submit(lease, body)


def judge_and_take(
    lease: Lease,
    annotator,
    *,
    verdict: str,
    strength: int | None = None,
    reasons: Sequence[str] = (),
    comment: str = "",
    edited: str = "",
    criteria: Mapping[str, str] | None = None,
    has_ahead: bool = False,
) -> tuple[Submitted, Lease | None]:
    """`submit_judgment`, then `take_lease`: both in one transaction where they can be.

    `has_ahead`: the page says that it holds a lease reserved ahead (reserving.py), which
    then comes next. Who doesn't say so pays no query for looking.

    Raises what submitting raises. The judgment never waits for the next comparison: if
    that can't be taken in the same transaction, it is taken in one of its own.
    """
    body = {
        "verdict": verdict,
        "strength": strength,
        "reasons": reasons,
        "comment": comment,
        "edited": edited,
        "criteria": criteria,
    }
    if lease.outcome == Lease.Outcome.ACTIVE:
        try:
            whole = checked(lease, *body.values())
            return _judge_and_claim(lease, annotator, whole, has_ahead)
        except (InvalidJudgment, IntegrityError):
            pass  # Rare; what it was is found out below.
    submitted = submit_judgment(lease, **body)
    return submitted, leasing.take_lease(lease.project, annotator)


def _judge_and_claim(
    lease: Lease, annotator, body: Body, has_ahead: bool
) -> tuple[Submitted, Lease | None]:
    """An active lease is judged, and as it was the only one, the next can be taken.

    What waits is read before the transaction, which writers of SQLite queue for.
    """
    project, now = lease.project, timezone.now()
    own = project_settings.of(project)
    found: list[tuple] = []
    if not has_ahead:
        found = waiting.offers(
            project, annotator.pk, own.next_comparison, now, [lease.comparison_id]
        )

    def store() -> tuple[Submitted, uuid.UUID | None]:
        submitted = _store(lease, body)
        if submitted.is_replay:
            return submitted, None
        if has_ahead:
            return submitted, leasing.activate(
                project, annotator.pk, now, own.lease_minutes
            )
        return submitted, leasing.claim_next(project, annotator, own, found, now)

    submitted, key = committed(store)
    nudge(project)
    if key is not None:
        return submitted, showing.new_lease(project, key)
    is_more = found or has_ahead or submitted.is_replay
    if not is_more and leasing.reserved(project, annotator) is None:
        return submitted, None
    # A repeat may have the next one already; others may have taken all that was seen.
    return submitted, leasing.take_lease(project, annotator)


def _submit(lease: Lease, body: Body) -> Submitted:
    try:
        with transaction.atomic():
            return _store(lease, body)
    except IntegrityError:
        # The lock below makes repeats queue; should a constraint still speak, what
        # it protects is there, and this was a repeat or came too late.
        replay = _replay(lease, body.sha256)
        if replay is not None:
            return replay
        raise TooLate(_("You have judged this pair already.")) from None


def _replay(lease: Lease, body_sha256: str) -> Submitted | None:
    earlier = Judgment.objects.filter(lease=lease).select_related("winner").first()
    if earlier is None:
        return None
    if earlier.body_sha256 != body_sha256:
        if earlier.undone_at:
            raise OtherBody(ending.came_back())
        raise OtherBody(
            _("This pair was judged already, with another answer. Undo that first.")
        )
    return Submitted(earlier, is_replay=True)


_FILL = """
UPDATE annotation_slot SET state = 'judged', expires_at = NULL
WHERE id = %s AND lease_id = %s AND state = 'leased'
"""
_END = "UPDATE annotation_lease SET outcome = 'judged', ended_at = %s WHERE key = %s"


def _store(lease: Lease, body: Body) -> Submitted:
    comparison, slot_id = locked_with_slot(lease)
    now = timezone.now()
    comparison.project = lease.project  # Its settings decide.
    lease.comparison = comparison
    # A slot that the lease still holds tells that it has no judgment yet.
    if slot_id is None or not sql.changed(_FILL, slot_id, lease.pk):
        replay = _replay(lease, body.sha256)
        if replay is not None:
            return replay
        slot_id = _other_slot(lease, comparison, now).pk
    winner_id = {"first": lease.first_id, "second": lease.second_id}.get(body.verdict)
    edited = _edited_completion(lease, winner_id, body)
    judgment = sql.insert(
        Judgment(
            project_id=lease.project_id,
            comparison=comparison,
            annotator_id=lease.annotator_id,
            lease=lease,
            slot_id=slot_id,
            verdict=body.verdict,
            winner_id=winner_id,
            strength=body.strength if winner_id else None,
            reasons=body.reasons,
            comment=body.comment,
            criteria=body.criteria,
            edited=edited,
            body_sha256=body.sha256,
            seconds=max(0.0, (now - lease.created_at).total_seconds()),
            waits_for_review=trust.waits(lease),
        )
    )
    sql.changed(_END, now, lease.pk)
    lease.outcome, lease.ended_at = Lease.Outcome.JUDGED, now
    count_judgments(comparison.pk)
    decide_locked(comparison)
    return Submitted(judgment, is_replay=False)


def _other_slot(lease: Lease, comparison: Comparison, now: datetime) -> Slot:
    """A free slot for a judgment whose lease has lost its own, filled with it."""
    filled = {"state": Slot.State.JUDGED, "expires_at": None}
    if Lease.objects.filter(pk=lease.pk, outcome=Lease.Outcome.SKIPPED).exists():
        raise TooLate(_("You have skipped this pair."))
    if Judgment.objects.filter(
        comparison=comparison, annotator=lease.annotator_id, undone_at=None
    ).exists():
        raise TooLate(_("You have judged this pair already."))
    # A later lease of the same person on the same comparison counts as theirs, too, and
    # gives way before all others: left to them, it could be judged no more.
    own = Q(state=Slot.State.LEASED, lease__annotator=lease.annotator_id)
    slots = Slot.objects.filter(
        leasing.free_slots(now) | own, comparison=comparison
    ).order_by(Case(When(own, then=0), default=1), "number")
    if connection.features.has_select_for_update_skip_locked:
        slots = slots.select_for_update(skip_locked=True, of=("self",))
    for slot in slots:
        unchanged = Slot.objects.filter(
            pk=slot.pk, state=slot.state, lease=slot.lease_id
        )
        if unchanged.update(lease=lease, **filled):
            if slot.lease_id:
                ending.end(slot.lease_id, Lease.Outcome.EXPIRED, now)
            slot.refresh_from_db()
            return slot
    if comparison.state == Comparison.State.WITHDRAWN:
        raise TooLate(
            _("Your time for this pair ran out, and it was withdrawn meanwhile.")
        )
    raise TooLate(
        _("Your time for this pair ran out, and others have judged it meanwhile.")
    )


def criteria_seen(judgment: Judgment) -> dict[str, str]:
    """{criterion: first, second or tie} as its lease showed the answers."""
    if not judgment.criteria:
        return {}
    lease = judgment.lease
    sides = {lease.first_id: "first", lease.second_id: "second", None: "tie"}
    return {name: sides[won] for name, won in judgment.criteria.items()}


def _edited_completion(
    lease: Lease, winner_id: int | None, body: Body
) -> Completion | None:
    if not body.edited or winner_id is None:
        return None
    winner = lease.first if winner_id == lease.first_id else lease.second
    return Completion.objects.create(
        prompt_id=winner.prompt_id,
        source=Completion.Source.EDITED,
        text=body.edited,
        html=body.edited_html,
        edited_from=winner,
        author_id=lease.annotator_id,
    )


def undo(judgment: Judgment) -> Lease:
    """Take the judgment back; a fresh lease on the same comparison.

    Another lease that the annotator holds ends as expired: its comparison is offered
    again. Raises AlreadyUndone, Frozen and Settled (409).
    """
    for _attempt in range(3):
        try:
            with transaction.atomic():
                key = _undo(judgment)
            return showing.new_lease(judgment.project, key)
        except IntegrityError:
            continue  # Took a lease in another tab at the same moment: end that too.
    raise AlreadyUndone(_("Another tab was working at the same moment. Try again."))


def _undo(judgment: Judgment) -> uuid.UUID:
    held = list(leasing.active_leases(judgment.project, judgment.annotator))
    rows = locked_all({judgment.comparison_id, *(one.comparison_id for one in held)})
    comparison = rows[judgment.comparison_id]
    now = timezone.now()
    standing = Judgment.objects.filter(pk=judgment.pk, undone_at=None)
    if not standing.update(undone_at=now):
        raise AlreadyUndone(_("This judgment was undone already."))
    count_judgments(comparison.pk)
    decision = standing_decision(comparison)
    if decision is not None:
        if decision.method == Decision.Method.REVIEWER:
            raise Settled(
                _("A reviewer has decided this pair, so it can’t be changed.")
            )
        supersede(decision)
    reopen(comparison)
    for lease in held:
        other = rows[lease.comparison_id]
        ending.give_back(lease.pk, other, Lease.Outcome.EXPIRED)
    minutes = project_settings.of(judgment.project).lease_minutes
    key, until = uuid.uuid4(), now + timedelta(minutes=minutes)
    freed = Slot.objects.filter(
        pk=judgment.slot_id, lease=judgment.lease_id, state=Slot.State.JUDGED
    ).update(state=Slot.State.LEASED, lease=key, expires_at=until)
    assert freed == 1, "a standing judgment fills its slot"
    judgment.undone_at = now
    leasing.make_lease(comparison, judgment.annotator_id, key, until)
    return key

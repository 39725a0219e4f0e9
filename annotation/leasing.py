"""Leases: one annotator's short, expiring claim on one comparison.

A lease takes a slot by a conditional UPDATE, an expired one's slot the same way, so
leases and judgments together never exceed the quota. The shown order and the ids the
page carries are made here; judging is in judging.py.
"""

import uuid
from datetime import datetime, timedelta

from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import Http404
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from annotation import probing, project_settings, texts
from annotation.access import role_of
from annotation.deciding import decide, locked
from annotation.errors import InvalidJudgment, Refused
from annotation.models import Comparison, Judgment, Lease, Project, Slot
from annotation.stock import nudge, with_system

# How many waiting comparisons are looked at together: more than annotators who may
# be claiming at the same moment, so one look nearly always finds a free slot.
WINDOW = 16

_UNSEEN = [
    f"{side}__{name}"
    for side in ("first", "second")
    for name in ("prompt_token_ids", "token_ids", "logprobs", "messages")
]


def take_lease(project: Project, annotator) -> Lease | None:
    """The lease held, else one on the oldest comparison waiting for this annotator.

    None where nothing waits that they haven't judged or skipped. `lease.is_new` says
    whether it was made now.
    """
    own = project_settings.of(project)
    minutes = own.lease_minutes
    for _attempt in range(3):
        held = _held(project, annotator, minutes)
        if held is not None:
            held.is_new = False
            return held
        try:
            with transaction.atomic():
                key = _claim_probe(project, annotator, own) or _claim(
                    project, annotator, minutes
                )
        except IntegrityError:
            continue  # Another tab was quicker: what it took is held now.
        nudge(project)
        if key is None:
            return None
        lease = lease_of(key)
        lease.is_new = True
        return lease
    return None


def lease_of(key: uuid.UUID) -> Lease:
    """The lease with what a page shows of it."""
    return with_content(Lease.objects).get(pk=key)


def lease_for(user, key: uuid.UUID | str) -> Lease:
    """The user's own lease, whatever its outcome; Http404 for anybody else's."""
    try:
        lease = with_content(Lease.objects.filter(annotator=user)).get(key=key)
    except (Lease.DoesNotExist, ValidationError, ValueError, TypeError):
        raise Http404(_("There is no such lease.")) from None
    if role_of(user, lease.project) is None:
        raise Http404(_("There is no such lease."))
    return lease


def with_content(leases: QuerySet[Lease]) -> QuerySet[Lease]:
    """Leases with what a page shows of them, without tokens and log-probs."""
    return leases.select_related(
        "project__channel", "comparison__prompt", "first", "second"
    ).defer(*_UNSEEN)


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
    """The active lease, its time prolonged when less than half is left."""
    lease = with_content(active_leases(project, annotator)).first()
    if lease is None:
        return None
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


def _claim_probe(
    project: Project, annotator, own: project_settings.ProjectSettings
) -> uuid.UUID | None:
    """A probe made and leased in one transaction, where one is due."""
    slot = probing.slot_for(project, annotator, own)
    if slot is None:
        return None
    return _grant(slot, annotator, timezone.now(), own.lease_minutes)


def _claim(project: Project, annotator, minutes: float) -> uuid.UUID | None:
    now = timezone.now()
    waiting = (
        Comparison.objects.filter(
            project=project,
            state=Comparison.State.OPEN,
            purpose__in=Comparison.OFFERED,
        )
        .filter(
            Exists(Slot.objects.filter(free_slots(now), comparison=OuterRef("pk"))),
            ~Exists(
                Judgment.objects.filter(
                    comparison=OuterRef("pk"), annotator=annotator, undone_at=None
                )
            ),
            ~Exists(
                Lease.objects.filter(
                    comparison=OuterRef("pk"),
                    annotator=annotator,
                    outcome=Lease.Outcome.SKIPPED,
                )
            ),
        )
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    last = 0
    while True:
        window = list(waiting.filter(pk__gt=last)[:WINDOW])
        key = _claim_among(window, annotator, now, minutes)
        if key is not None or len(window) < WINDOW:
            return key
        last = window[-1]


def _claim_among(
    comparison_ids: list[int], annotator, now: datetime, minutes: float
) -> uuid.UUID | None:
    while comparison_ids:
        slots = Slot.objects.filter(free_slots(now), comparison__in=comparison_ids)
        if connection.features.has_select_for_update_skip_locked:
            slots = slots.select_for_update(skip_locked=True, of=("self",))
        slot = (
            slots.select_related("comparison")
            .order_by("comparison_id", "number")
            .first()
        )
        if slot is None:
            return None
        key = _grant(slot, annotator, now, minutes)
        if key is not None:
            return key
    return None


def _grant(slot: Slot, annotator, now: datetime, minutes: float) -> uuid.UUID | None:
    """Take the free slot: the new lease's key, None if it is no longer free.

    Inside a transaction; IntegrityError where the annotator holds another lease.
    """
    key, until = uuid.uuid4(), now + timedelta(minutes=minutes)
    taken = Slot.objects.filter(
        free_slots(now), pk=slot.pk, lease=slot.lease_id
    ).update(state=Slot.State.LEASED, lease=key, expires_at=until)
    if not taken:
        return None
    if slot.lease_id is not None:
        end(slot.lease_id, Lease.Outcome.EXPIRED, now)
    make_lease(slot.comparison, annotator.pk, key, until)
    return key


def make_lease(
    comparison: Comparison, annotator_id: int, key: uuid.UUID, until: datetime
) -> None:
    """The lease's row for a slot that already names its key."""
    first, second = comparison.a_id, comparison.b_id
    # A repeat was made with the sides as they are to be shown.
    is_repeat = comparison.purpose == Comparison.Purpose.REPEAT
    if not is_repeat and not shows_a_first(annotator_id, comparison.pk):
        first, second = second, first
    Lease.objects.create(
        key=key,
        project_id=comparison.project_id,
        comparison=comparison,
        annotator_id=annotator_id,
        first_id=first,
        second_id=second,
        expires_at=until,
    )


def end(lease_id: uuid.UUID, outcome: str, now: datetime, **fields) -> int:
    """Give an active lease its outcome; how many rows that changed (0 or 1)."""
    return Lease.objects.filter(pk=lease_id, outcome=Lease.Outcome.ACTIVE).update(
        outcome=outcome, ended_at=now, **fields
    )


def free(lease_id: uuid.UUID, comparison: Comparison) -> None:
    """Give the lease's slot back; a withdrawn comparison's is withdrawn with it."""
    withdrawn = comparison.state == Comparison.State.WITHDRAWN
    Slot.objects.filter(lease=lease_id, state=Slot.State.LEASED).update(
        state=Slot.State.WITHDRAWN if withdrawn else Slot.State.OPEN,
        lease=None,
        expires_at=None,
    )


def skip(lease: Lease, reason: str = "", flag: str = "") -> None:
    """End the lease without a verdict; the comparison isn't offered to them again.

    `flag` (Lease.Flag) says that something is wrong with the pair, for reviewers to
    look at. Skipping twice changes nothing. Raises Refused (409) for a judged lease,
    InvalidJudgment (422) for a flag that is not known or says nothing.
    """
    if flag and flag not in Lease.Flag.values:
        raise InvalidJudgment(
            "flag",
            _("“flag” must be one of %(known)s.")
            % {"known": ", ".join(Lease.Flag.values)},
        )
    if flag == Lease.Flag.OTHER and not reason.strip():
        raise InvalidJudgment("reason", _("Say in a few words what is wrong."))
    problem = texts.problem(reason, 200)
    if problem:
        raise InvalidJudgment("reason", _("The reason %(what)s.") % {"what": problem})
    now = timezone.now()
    with transaction.atomic():
        comparison = locked(lease.comparison_id)
        probing.end_skipped(comparison)
        free(lease.pk, comparison)
        Lease.objects.filter(
            pk=lease.pk, outcome__in=[Lease.Outcome.ACTIVE, Lease.Outcome.EXPIRED]
        ).update(
            outcome=Lease.Outcome.SKIPPED, skip_reason=reason, flag=flag, ended_at=now
        )
        lease.refresh_from_db(fields=["outcome", "skip_reason", "flag", "ended_at"])
        if lease.outcome == Lease.Outcome.JUDGED:
            raise Refused(_("You have judged this pair already. Undo that first."))
        if comparison.state == Comparison.State.WITHDRAWN:
            decide(comparison)
    nudge(lease.project)

"""Ending leases that get no judgment: skipped, lapsed, put back; and what becomes of their slots.

Judging is judging.py's, withdrawing a whole stock stock.py's.
"""

import uuid
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import probing, texts
from annotation.deciding import decide_locked, locked
from annotation.errors import AlreadyUndone, InvalidJudgment, Refused
from annotation.models import Comparison, Judgment, Lease, Slot
from annotation.stock import nudge

ENDED_AT_ONCE = 500
MAX_REASON = 10_000
"""Characters of a skip's reason: as many as the comment has that it may have been."""


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


def put_back(lease: Lease) -> None:
    """End a lease reserved ahead, and give its slot back."""
    _expire(lease.pk, lease.comparison_id, outcome=Lease.Outcome.AHEAD)


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

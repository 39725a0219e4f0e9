"""The lease reserved ahead: the pair that comes after the one on an annotator's desk.

The page holds it, so that it is on the screen in the moment of the pick. It takes a slot
as any lease does, ends by its time as any lease does, and is nobody's pair until it is
activated (leasing.py), in the transaction that stores the judgment before it.

A probe that is due is reserved as any other. Were it to come in between instead, who saw
the held pair give way to another would know that one for a probe.
"""

from datetime import datetime, timedelta
from functools import partial

from django.db import IntegrityError, transaction
from django.utils import timezone

from annotation import ending, leasing, project_settings, showing, waiting
from annotation.committing import committed
from annotation.models import Lease, Project
from annotation.stock import nudge

AHEAD = Lease.Outcome.AHEAD

SPARE = 6
"""Comparisons that wait for the annotator where one is reserved, at least."""


def reserve(project: Project, annotator) -> Lease | None:
    """The lease reserved ahead for who has a pair on the desk, made where there is none.

    None where they have no pair, or where so few wait that another might go without.
    """
    own = project_settings.of(project)
    for _attempt in range(3):
        on_desk = leasing.active_leases(project, annotator).values_list("comparison")
        here = [comparison for (comparison,) in on_desk]
        if not here:
            return None
        now = timezone.now()
        lease = _kept(project, annotator, now + timedelta(minutes=own.lease_minutes))
        if lease is not None:
            return lease
        found = waiting.offers(project, annotator.pk, own.next_comparison, now, here)
        if len(found) < _enough(project, now):
            return None
        claim = partial(leasing.claim_next, project, annotator, own, found, now, AHEAD)
        try:
            key = committed(claim)
        except IntegrityError:
            continue  # Another tab was quicker: what it reserved is there now.
        nudge(project)
        return None if key is None else showing.new_lease(project, key)
    return None


def _kept(project: Project, annotator, until: datetime) -> Lease | None:
    """The one reserved before, with time anew; put back where it can't be shown."""
    lease = leasing.reserved(project, annotator)
    if lease is None:
        return None
    with transaction.atomic():
        if leasing.keep(lease.pk, annotator.pk, until):
            Lease.objects.filter(pk=lease.pk).update(expires_at=until)
            return lease
    ending.put_back(lease)
    return None


def _enough(project: Project, now: datetime) -> int:
    """Two for everybody who is at work, so that nobody goes without because others hold
    two; a whole window is enough for any number."""
    at_work = Lease.objects.filter(
        project=project, outcome=Lease.Outcome.ACTIVE, expires_at__gt=now
    ).count()
    return min(waiting.WINDOW, max(SPARE, 2 * at_work))

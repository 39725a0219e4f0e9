"""Flagged pairs: what annotators said is wrong with a pair instead of judging it.

Read by reviewers, who may take such a pair out of the stock. A flag is kept on the
lease it ended, so who flagged, when and what they saw is there without another table.
"""

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import Http404
from django.utils.translation import gettext as _

from annotation.deciding import decide_locked, locked
from annotation.errors import Refused
from annotation.models import Comparison, Lease, Project
from annotation.models.comparisons import unseen
from annotation.stock import withdraw_open


def flagged(project: Project, flag: str = "") -> QuerySet[Lease]:
    """Leases that a flag ended, newest first; of one kind, where `flag` names one."""
    leases = Lease.objects.filter(project=project).exclude(flag="")
    if flag in Lease.Flag.values:
        leases = leases.filter(flag=flag)
    return leases.order_by("-ended_at")


def with_content(leases: QuerySet[Lease]) -> QuerySet[Lease]:
    """Leases with what the page shows of them, without tokens and log-probs."""
    return leases.select_related(
        "annotator", "comparison__prompt", "first", "second"
    ).defer(*unseen("first", "second", also=["messages"]))


def counts(project: Project) -> dict[str, int]:
    """{flag: how many}, without those that nobody used."""
    return dict(flagged(project).order_by().values_list("flag").annotate(n=Count("*")))


def withdraw(project: Project, key: str) -> None:
    """Offer this flagged pair to nobody any more; who holds it may still finish.

    Raises Http404 where the project has no such flag, Refused (409) where the pair is
    decided or withdrawn already. What was judged of it before decides it.
    """
    try:
        lease = flagged(project).get(pk=key)
    except (Lease.DoesNotExist, ValidationError, ValueError):
        raise Http404(_("There is no such flag.")) from None
    with transaction.atomic():
        comparison = locked(lease.comparison_id)
        if comparison.state != Comparison.State.OPEN:
            raise Refused(_("This pair is no longer offered to anybody."))
        withdraw_open(comparison)
        decide_locked(comparison)

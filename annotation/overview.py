"""Figures of the home page and of a project's overview: what there is to do, and for whom.

A fixed number of queries, however many projects, prompts or pairs there are. Rounds
belong to training, which puts theirs in by the template tag `put_rounds`.
"""

from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from annotation import queries
from annotation.adjudicating import waiting
from annotation.models import (
    Comparison,
    Judgment,
    Lease,
    Membership,
    Project,
    Prompt,
    Slot,
)
from inference.models import Policy, Replica
from inference.replicas import replica_urls


def with_figures(projects: QuerySet[Project], user) -> QuerySet[Project]:
    """Each project with `n_…` counts and the user's `role_here`, in one query."""
    mine = Judgment.objects.filter(annotator=user, undone_at=None)
    here: Any = OuterRef("pk")
    pairs, sound = queries.standing_pairs(here), queries.sound_pairs(here)
    return projects.annotate(
        role_here=Subquery(
            Membership.objects.filter(project=OuterRef("pk"), user=user).values("role")
        ),
        n_prompts=_number(Prompt.objects.filter(is_gold=False)),
        n_held_out=_number(Prompt.objects.filter(is_held_out=True)),
        n_waiting=_number(waiting_for(user)),
        n_open=_number(
            Comparison.objects.filter(state="open", purpose__in=Comparison.OFFERED)
        ),
        n_judgments=_number(Judgment.objects.filter(undone_at=None)),
        n_mine=_number(mine),
        n_mine_today=_number(mine.filter(created_at__gte=midnight())),
        n_sound=_number(sound),
        n_unchecked=_number(pairs.filter(state="unchecked")),
        n_rejected=_number(pairs.filter(state="rejected")),
        n_review=_number(waiting()),
    )


def midnight():
    """Today's start in the site's time zone."""
    return timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)


def other_base(project: Project) -> Policy | None:
    """The base that is served, where it is not the one the project was made with."""
    others = Replica.objects.filter(url__in=replica_urls(), base__isnull=False)
    replica = others.exclude(base=project.base_id).select_related("base").first()
    return replica.base if replica else None


def member_counts(project: Project) -> QuerySet[Membership]:
    """The members with what each has judged, by role and name; one query."""
    standing = Q(
        user__leases__judgment__undone_at=None,
        user__leases__judgment__isnull=False,
        user__leases__project=F("project"),
    )
    return (
        project.memberships.select_related("user")
        .annotate(n_judgments=Count("user__leases__judgment", filter=standing))
        .order_by("user__username")
    )


def waiting_for(user) -> QuerySet[Comparison]:
    """Open comparisons with room that the user has neither judged nor skipped.

    Their own probe counts as any other would, or the count would tell it.
    """
    now = timezone.now()
    room = Q(state="open") | Q(state="leased", expires_at__lte=now)
    own = Q(state="leased", lease__annotator=user)
    here = OuterRef("pk")
    return Comparison.objects.filter(
        Q(purpose__in=Comparison.OFFERED) | Q(probe__annotator=user),
        Exists(Slot.objects.filter(room | own, comparison=here)),
        ~Exists(
            Judgment.objects.filter(comparison=here, annotator=user, undone_at=None)
        ),
        ~Exists(
            Lease.objects.filter(comparison=here, annotator=user, outcome="skipped")
        ),
        state="open",
    )


def _number(rows: QuerySet) -> Any:
    counted = (
        rows.filter(project=OuterRef("pk"))
        .order_by()
        .values("project")
        .annotate(n=Count("*"))
    )
    return Coalesce(Subquery(counted.values("n")), 0)

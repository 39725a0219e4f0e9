"""Figures of the home page and of a project's overview: what there is to do, and for whom.

A fixed number of queries, however many projects, prompts or pairs there are. What reads
all of a project's rows is a part of its figures (`figures.py`), counted by a worker once
there is much. Rounds belong to training, which puts theirs in by the template tag
`put_rounds` and as a part of the figures.
"""

from datetime import timedelta
from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce, NullIf, TruncDate
from django.db.models.lookups import IsNull
from django.utils import timezone

from annotation import queries
from annotation.adjudicating import waiting
from annotation.counting import Counted
from annotation.leasing import free_slots
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    Membership,
    PreferencePair,
    Project,
    Prompt,
    Role,
    Slot,
)
from annotation.outlook import LOOK_BACK
from inference.models import Policy, Replica


def with_figures(projects: QuerySet[Project], user) -> QuerySet[Project]:
    """Each project with `n_…` counts and the user's `role_here`, in one query that
    reads all their rows: of small ones, that is; see figures.py."""
    mine = Judgment.objects.filter(annotator=user, undone_at=None)
    here: Any = OuterRef("pk")
    pairs, sound = queries.standing_pairs(here), queries.sound_pairs(here)
    ready = ready_for(user)
    return projects.annotate(
        role_here=role_of(user),
        n_prompts=_number(Prompt.objects.filter(is_gold=False)),
        n_held_out=_number(Prompt.objects.filter(is_held_out=True)),
        n_waiting=Coalesce(NullIf(_number(ready.filter(OFFERED)), 0), _number(ready)),
        n_open=_number(
            Comparison.objects.filter(state="open", purpose__in=Comparison.OFFERED)
        ),
        n_judgments=_number(Judgment.objects.filter(undone_at=None)),
        n_mine=_number(mine),
        n_mine_today=_number(mine.filter(created_at__gte=midnight())),
        n_sound=_number(sound),
        n_due=_number(queries.due_pairs(here)),
        n_rejected=_number(pairs.filter(state="rejected")),
        n_review=_number(waiting()),
    )


def role_of(user) -> Any:
    """The user's role in each project of a query."""
    mine = Membership.objects.filter(project=OuterRef("pk"), user=user)
    return Subquery(mine.values("role"))


OFFERED = Q(purpose__in=Comparison.OFFERED)

MOST_WAITING = 100
"""Of what waits for somebody; more is told as "100+", for counting it would take long."""

MOST_DISLIKED = 10
"""Prompts listed of those that nobody likes an answer of."""


def totals(project: Project) -> dict[str, int]:
    """How many of each there are. Four queries."""
    prompts = Prompt.objects.filter(project=project, is_gold=False).aggregate(
        prompts=Count("pk"), held_out=Count("pk", filter=Q(is_held_out=True))
    )
    states = PreferencePair.State
    pairs = (
        queries.standing_pairs(project)
        .order_by()
        .aggregate(
            unchecked=Count("pk", filter=queries.WAITS_FOR_CHECK),
            due=Count("pk", filter=Q(is_due=True)),
            rejected=Count("pk", filter=Q(state=states.REJECTED)),
            sound=Count(
                "pk", filter=Q(state=states.ACCEPTED, prompt__is_held_out=False)
            ),
        )
    )
    return {
        **prompts,
        **pairs,
        "open": Comparison.objects.filter(
            project=project, state="open", purpose__in=Comparison.OFFERED
        ).count(),
        "judgments": project.judgments.filter(undone_at=None).count(),
    }


def days(project: Project) -> list[dict[str, Any]]:
    """The last LOOK_BACK days, the oldest first: {"day", "judgments", "pairs"}.

    `pairs` are sound ones that came of judging, by the day of the last judgment: one that
    is made anew (repaired, decided again) is no new work. Imported ones say nothing of
    the pace. Two queries.
    """
    today = timezone.localdate()
    first = today - timedelta(days=LOOK_BACK - 1)
    since = midnight() - timedelta(days=LOOK_BACK - 1)

    def by_day(rows: QuerySet, at: str) -> dict:
        found = rows.filter(**{f"{at}__gte": since}).order_by()
        found = found.annotate(day=TruncDate(at)).values_list("day")
        return dict(found.annotate(Count("pk")))

    judged = by_day(project.judgments.filter(undone_at=None), "created_at")
    last = Judgment.objects.filter(
        comparison=OuterRef("decision__comparison"), undone_at=None
    ).order_by("-created_at")
    # No pair is older than the judgments it came of.
    recent = queries.sound_pairs(project).filter(created_at__gte=since)
    with_last = recent.annotate(judged_at=Subquery(last.values("created_at")[:1]))
    made = by_day(with_last, "judged_at")
    all_days = [first + timedelta(days=n) for n in range(LOOK_BACK)]
    return [
        {"day": day, "judgments": judged.get(day, 0), "pairs": made.get(day, 0)}
        for day in all_days
    ]


def idle_annotators(project: Project) -> list[str]:
    """Members of the role annotator for whom nothing is ready to judge; one query."""
    ready = ready_for(OuterRef(OuterRef("user"))).filter(project=project)
    return list(
        project.memberships.filter(
            ~Exists(ready), role=Role.ANNOTATOR, user__is_active=True
        )
        .order_by("user__username")
        .values_list("user__username", flat=True)
    )


def disliked_prompts(project: Project) -> list[dict[str, Any]]:
    """Prompts neither answer of which was good enough: {"prompt": its id, "text",
    "both_bad", "decided"} comparisons, most both-bads first. Two queries."""
    both_bad = Q(outcome=Decision.Outcome.BOTH_BAD)
    standing = Decision.objects.filter(
        comparison__project=project,
        comparison__purpose=Comparison.Purpose.TRAIN,
        superseded_at=None,
    )
    found = list(
        standing.filter(both_bad)
        .order_by()
        .values(prompt=F("comparison__prompt"))
        .annotate(both_bad=Count("pk"))
        .order_by("-both_bad", "prompt")[:MOST_DISLIKED]
    )
    prompts = Prompt.objects.filter(pk__in=[row["prompt"] for row in found]).annotate(
        decided=Count(
            "comparisons__decisions",
            filter=Q(
                comparisons__decisions__superseded_at=None,
                comparisons__purpose=Comparison.Purpose.TRAIN,
            )
            & ~Q(comparisons__decisions__outcome=Decision.Outcome.REVIEW),
        )
    )
    by_pk = {prompt.pk: prompt for prompt in prompts}
    return [
        {
            **row,
            "text": str(by_pk[row["prompt"]]),
            "decided": by_pk[row["prompt"]].decided,
        }
        for row in found
        if row["prompt"] in by_pk
    ]


def waiting_for(project: Project, user) -> Counted:
    """Comparisons ready for the user, the one on their desk among them.

    Were a probe there counted beside the others, the number would tell it; so it stands
    for one of them.
    """
    # One beyond what is told, and the probe.
    ready = ready_for(user).filter(project=project).order_by()[: MOST_WAITING + 2]
    found = ready.aggregate(offered=Count("pk", filter=OFFERED), all=Count("pk"))
    return Counted(found["offered"] or found["all"], MOST_WAITING)


def my_counts(project: Project, user) -> dict[str, int]:
    """The user's own standing judgments: {"all", "today"}; one query."""
    return Judgment.objects.filter(
        project=project, annotator=user, undone_at=None
    ).aggregate(
        all=Count("pk"), today=Count("pk", filter=Q(created_at__gte=midnight()))
    )


def midnight():
    """Today's start in the site's time zone."""
    return timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)


def other_base(project: Project, servers: list[Replica]) -> Policy | None:
    """The base that is served, where it is not the one the project was made with."""
    bases = (replica.base for replica in servers)
    return next((base for base in bases if base and base != project.base), None)


def ready_for(user) -> QuerySet[Comparison]:
    """Open comparisons with room that the user has neither judged nor skipped, and the
    one on their own desk or reserved for it, whatever it is: a probe of theirs, maybe.
    A probe that an undo took off the desk may never come again, so it isn't ready.
    """
    here = OuterRef("pk")
    room = Slot.objects.filter(free_slots(timezone.now()), comparison=here)
    mine = Lease.objects.filter(comparison=here, annotator=user)
    on_desk = _any(mine.filter(outcome__in=Lease.HELD))
    return Comparison.objects.filter(
        OFFERED | on_desk,
        # Apart, not as a join from slots to leases: PostgreSQL would read all leases.
        _any(room) | on_desk,
        ~Exists(
            Judgment.objects.filter(comparison=here, annotator=user, undone_at=None)
        ),
        ~Exists(mine.filter(outcome=Lease.Outcome.SKIPPED)),
        state="open",
    )


def _any(rows: QuerySet) -> Q:
    """Whether there are any, looked up for each row of the outer query. Of an Exists that
    stands beside an OR, PostgreSQL first puts all rows of the table in a hash."""
    return Q(IsNull(Subquery(rows.order_by().values("pk")[:1]), False))


def _number(rows: QuerySet) -> Any:
    counted = (
        rows.filter(project=OuterRef("pk"))
        .order_by()
        .values("project")
        .annotate(n=Count("*"))
    )
    return Coalesce(Subquery(counted.values("n")), 0)

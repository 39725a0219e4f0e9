"""The adjudication queue: what judgments could not decide, settled by a reviewer.

A reviewer's decision supersedes the one by count and stands from then on; it is undone by
the reviewer or a manager until a round has taken its pair. Nobody reviews what they judged
themself, as their own opinion would then count twice and the doubt be answered by one of
the doubters; only where every reviewer of the project has judged it, any of them may,
for else it would wait for ever. What the page shows is in review_desk.py.
"""

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import texts
from annotation.access import other_reviewers
from annotation.counting import Counted, counted
from annotation.deciding import (
    Finding,
    Method,
    Outcome,
    decide_locked,
    locked,
    record,
    reopen,
    standing_decision,
    standing_judgments,
    supersede,
)
from annotation.errors import AlreadyUndone, InvalidJudgment, NotYours, Settled
from annotation.leasing import shows_a_first
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Project,
    ReviewClaim,
    Verdict,
)

MAX_NOTE = 10_000
CLAIMED_FOR = timedelta(minutes=15)
MOST_COUNTED = 999
WINDOW = 16
"""Comparisons looked at together: more than reviewers who may claim at one moment."""

UNDECIDABLE = "undecidable"
VERDICTS = (*Verdict.values, UNDECIDABLE)
"""What a reviewer may say of the answers as shown to them; the last leaves it out."""


def waiting() -> QuerySet[Comparison]:
    """Comparisons of any project that wait for a reviewer."""
    # From the decisions without a winner, which have an index: far fewer than
    # comparisons. `winner=None` follows from the outcome; the index is found by it.
    undecided = Decision.objects.filter(
        outcome__in=[Outcome.SPLIT, Outcome.REVIEW], superseded_at=None, winner=None
    ).exclude(method=Method.REVIEWER)
    return Comparison.objects.filter(
        pk__in=undecided.values("comparison"), purpose=Comparison.Purpose.TRAIN
    )


def queue(project: Project) -> QuerySet[Comparison]:
    """Those of one project; add here whatever else is to wait for a reviewer."""
    return waiting().filter(project=project)


def how_many(project: Project) -> Counted:
    """How many wait, told on every page of a reviewer."""
    return counted(queue(project), MOST_COUNTED)


def queue_for(project: Project, reviewer) -> QuerySet[Comparison]:
    """What of the queue this reviewer may settle."""
    here = OuterRef("pk")
    standing = Judgment.objects.filter(undone_at=None)
    others = other_reviewers(project, reviewer).filter(
        ~Exists(
            standing.filter(
                comparison=OuterRef(OuterRef("pk")), annotator=OuterRef("user")
            )
        )
    )
    return queue(project).filter(
        ~Exists(standing.filter(comparison=here, annotator=reviewer)) | ~Exists(others)
    )


def take(
    project: Project, reviewer, *, at: int | None = None, after: int = 0
) -> Comparison | None:
    """The next comparison for this reviewer, claimed for a while; None where there is none.

    That of id `at`, if it waits; else the one they hold, unless they pass it by (`after`);
    else the oldest after `after` that nobody else looks at, and then from the start again.
    """
    now = timezone.now()
    claimed = ReviewClaim.objects.filter(comparison=OuterRef("pk"), until__gt=now)
    free = queue_for(project, reviewer).filter(
        ~Exists(claimed.exclude(reviewer=reviewer))
    )
    held = Q(review_claim__reviewer=reviewer, review_claim__until__gt=now)
    looks = [Q(pk=at)] if at else []
    looks += [Q(pk__gt=after), Q()] if after else [held, Q()]
    for look in looks:
        ids = free.filter(look).order_by("pk").values_list("pk", flat=True)
        for pk in list(ids[:WINDOW]):
            if _claim(project, pk, reviewer, now):
                return Comparison.objects.get(pk=pk)
    return None


def _claim(project: Project, pk: int, reviewer, now: datetime) -> bool:
    until = now + CLAIMED_FOR
    mine = ReviewClaim.objects.filter(
        Q(until__lte=now) | Q(reviewer=reviewer), comparison=pk
    )
    if not mine.update(reviewer=reviewer, until=until):
        try:
            with transaction.atomic():
                ReviewClaim.objects.create(
                    comparison_id=pk, reviewer=reviewer, until=until
                )
        except IntegrityError:
            return False  # Somebody else was quicker.
    others = ReviewClaim.objects.filter(
        reviewer=reviewer, comparison__project=project
    ).exclude(comparison=pk)
    others.delete()
    return True


def shown_to(reviewer, comparison: Comparison) -> tuple[int, int]:
    """The answers' ids in the order this reviewer sees, the same at every visit."""
    if shows_a_first(reviewer.pk, comparison.pk):
        return comparison.a_id, comparison.b_id
    return comparison.b_id, comparison.a_id


def settle(
    project: Project,
    comparison_id: int,
    reviewer,
    *,
    verdict: str,
    note: str = "",
    category: str = "",
) -> Decision:
    """Store what the reviewer says of the answers as `shown_to` them; it stands.

    The same again by the same reviewer changes nothing. Raises InvalidJudgment (422),
    Http404, NotYours (403: judged by themself) and Settled (409: by somebody else, or it
    waits no more).
    """
    _check(verdict, note, category)
    try:
        with transaction.atomic():
            return _settle(project, comparison_id, reviewer, verdict, note, category)
    except IntegrityError:
        # The lock makes reviewers queue; should the constraint still speak:
        raise Settled(_("Another reviewer has decided this pair.")) from None


def _settle(
    project: Project,
    comparison_id: int,
    reviewer,
    verdict: str,
    note: str,
    category: str,
) -> Decision:
    comparison = _locked_of(project, comparison_id)
    finding = _finding(comparison, reviewer, verdict)
    standing = standing_decision(comparison)
    if standing is not None and standing.method == Method.REVIEWER:
        said = standing.outcome, standing.winner_id, standing.note, standing.category
        again = finding.outcome, finding.winner_id, note, category
        if standing.decided_by_id == reviewer.pk:
            if said == again:
                return standing
            raise Settled(_("You have decided this pair already. Undo that first."))
        raise Settled(_("Another reviewer has decided this pair."))
    if not queue_for(project, reviewer).filter(pk=comparison.pk).exists():
        if queue(project).filter(pk=comparison.pk).exists():
            raise NotYours(
                _("You judged this pair yourself; another reviewer has to decide it.")
            )
        raise Settled(_("This pair no longer waits for a reviewer."))
    if standing is not None:
        supersede(standing)
    ReviewClaim.objects.filter(comparison=comparison).delete()
    return record(
        comparison,
        standing_judgments(comparison),
        finding,
        decided_by=reviewer,
        note=note,
        category=category,
    )


def _finding(comparison: Comparison, reviewer, verdict: str) -> Finding:
    first, second = shown_to(reviewer, comparison)
    winner_id = {Verdict.FIRST: first, Verdict.SECOND: second}.get(verdict)
    if winner_id:
        return Finding(Outcome.WINNER.value, winner_id, Method.REVIEWER.value)
    outcome = Outcome.SPLIT.value if verdict == UNDECIDABLE else verdict
    return Finding(outcome, None, Method.REVIEWER.value)


def undo(project: Project, comparison_id: int, user, *, is_manager: bool) -> Decision:
    """Take a reviewer's decision back: the judgments count again, as if never settled.

    What was taken back is returned. Raises Http404, NotYours (somebody else's, and the
    user is no manager), AlreadyUndone and Frozen (409).
    """
    with transaction.atomic():
        comparison = _locked_of(project, comparison_id)
        standing = standing_decision(comparison)
        if standing is None or standing.method != Method.REVIEWER:
            raise AlreadyUndone(_("No reviewer’s decision stands on this pair."))
        if standing.decided_by_id != user.pk and not is_manager:
            raise NotYours(_("Another reviewer decided this pair; ask a manager."))
        supersede(standing)
        if decide_locked(comparison) is None:
            reopen(comparison)
        return standing


def last_settled(project: Project, reviewer) -> Decision | None:
    """The reviewer's newest decision that stands; whether a round has it, undoing says."""
    return (
        Decision.objects.filter(
            decided_by=reviewer, superseded_at=None, comparison__project=project
        )
        .select_related("comparison")
        .order_by("-id")
        .first()
    )


def _locked_of(project: Project, comparison_id: int) -> Comparison:
    """Another project's is none of ours: Http404 as for one that never was."""
    known = Comparison.objects.filter(project=project, pk=comparison_id)
    if not known.exists():
        raise Http404(_("There is no such comparison."))
    return locked(comparison_id)


def _check(verdict: str, note: str, category: str) -> None:
    if verdict not in VERDICTS:
        raise InvalidJudgment(
            "verdict",
            _("“verdict” must be one of %(known)s.") % {"known": ", ".join(VERDICTS)},
        )
    if category and category not in Decision.Category.values:
        raise InvalidJudgment(
            "category",
            _("“category” must be empty or one of %(known)s.")
            % {"known": ", ".join(Decision.Category.values)},
        )
    problem = texts.problem(note, MAX_NOTE)
    if problem:
        raise InvalidJudgment(
            "note", _("“%(field)s” %(what)s.") % {"field": "note", "what": problem}
        )

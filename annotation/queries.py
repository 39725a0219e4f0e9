"""Reads over judgments and pairs: what may train, what was lost where, who did what.

A fixed number of queries each, however much there is.
"""

from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    IntegerField,
    Max,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
    When,
)
from django.utils.translation import gettext as _

from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    LabelledAnswer,
    Lease,
    PreferencePair,
    Project,
    RuleVerdict,
)
from annotation.models.comparisons import unseen
from annotation.models.pairs import FROZEN
from annotation.standing import standing
from annotation.validation import BROKE, RULES, in_order

TRAIN = Comparison.Purpose.TRAIN
COULD_NOT_CHECK = RuleVerdict.Result.COULD_NOT_CHECK
WAITS_FOR_CHECK = Q(state=PreferencePair.State.UNCHECKED) | Q(is_due=True)
"""Of a pair: it was never checked, or the rules changed since."""


def standing_pairs(project: Project) -> QuerySet[PreferencePair]:
    """Pairs not superseded, of training comparisons or imported; any state."""
    return PreferencePair.objects.filter(
        Q(decision=None, kind=PreferencePair.Kind.IMPORTED)
        | Q(decision__superseded_at=None, decision__comparison__purpose=TRAIN),
        project=project,
        superseded_at=None,
    )


def due_pairs(project: Project) -> QuerySet[PreferencePair]:
    """Those that the rules, changed since, are being asked of again."""
    return standing_pairs(project).filter(is_due=True)


def sound_pairs(project: Project) -> QuerySet[PreferencePair]:
    """What may train: accepted, standing, purpose train, prompt not held out.

    Those that are due are among them, as the former rules left them; no round starts
    until the rules have spoken again.
    """
    return standing_pairs(project).filter(
        state=PreferencePair.State.ACCEPTED, prompt__is_held_out=False
    )


def count_sound(project: Project) -> int:
    """How many `sound_pairs` there are, for pages. Without a look at decisions and
    comparisons, all of which PostgreSQL would read: only training comparisons make pairs,
    and a pair is superseded with its decision."""
    return PreferencePair.objects.filter(
        project=project,
        superseded_at=None,
        state=PreferencePair.State.ACCEPTED,
        prompt__is_held_out=False,
    ).count()


def held_out_pairs(project: Project) -> QuerySet[PreferencePair]:
    """What measures: the same on prompts set aside on import."""
    return standing_pairs(project).filter(
        state=PreferencePair.State.ACCEPTED, prompt__is_held_out=True
    )


def alike_decisions(project: Project) -> QuerySet[Decision]:
    """Standing ties and both-bads of what may train: no pair, but labelled answers."""
    return Decision.objects.filter(
        comparison__project=project,
        comparison__purpose=TRAIN,
        comparison__prompt__is_held_out=False,
        superseded_at=None,
        outcome__in=[Decision.Outcome.TIE, Decision.Outcome.BOTH_BAD],
    )


def labelled_answers(project: Project) -> QuerySet[LabelledAnswer]:
    """Those that were imported without a partner, of what may train."""
    return LabelledAnswer.objects.filter(project=project, prompt__is_held_out=False)


def my_history(project: Project, user) -> QuerySet[Judgment]:
    """The user's judgments, newest first; `can_undo` says which may be taken back.

    Not what a round has used, nor what a reviewer has decided (`is_settled`).
    """
    frozen = PreferencePair.objects.filter(
        FROZEN, decision__comparison=OuterRef("comparison")
    )
    settled = Decision.objects.filter(
        comparison=OuterRef("comparison"),
        decided_by__isnull=False,
        superseded_at=None,
    )
    return (
        Judgment.objects.filter(project=project, annotator=user)
        .select_related("comparison__prompt", "lease__first", "lease__second", "edited")
        .defer(*unseen("lease__first", "lease__second", also=["html"]))
        .annotate(
            is_settled=Exists(settled),
            can_undo=Case(
                When(
                    Q(undone_at=None) & ~Exists(frozen) & ~Exists(settled),
                    then=Value(True),
                ),
                default=Value(False),
            ),
        )
        .order_by("-created_at")
    )


def worked_here(project: Project) -> dict[str, int]:
    """{username: id} of whoever ever judged a pair: asked person by person, since few
    people have very many judgments. Not of leases, which have no index of both: of who
    never took one, SQLite would read all that the project has."""
    theirs = Judgment.objects.filter(project=project, annotator=OuterRef("pk"))
    people = get_user_model().objects.filter(Exists(theirs))
    return dict(people.values_list("username", "pk"))


def annotator_counts(
    project: Project, at: datetime | None = None
) -> list[dict[str, Any]]:
    """Per annotator: standing judgments, mean seconds, last act, skips; most first.
    With `at`, as it was then."""
    judged = (
        Judgment.objects.filter(standing(at), project=project)
        .values("annotator__username")
        .annotate(
            judgments=Count("pk"),
            mean_seconds=Avg("seconds"),
            last_at=Max("created_at"),
        )
        .order_by("-judgments", "annotator__username")
    )
    then = {} if at is None else {"ended_at__lt": at}
    skipped = dict(
        Lease.objects.filter(project=project, outcome=Lease.Outcome.SKIPPED, **then)
        .values_list("annotator__username")
        .annotate(Count("pk"))
    )
    counts = []
    for row in judged:
        username = row.pop("annotator__username")
        counts.append({"username": username, **row, "skips": skipped.pop(username, 0)})
    counts += [
        {
            "username": username,
            "judgments": 0,
            "mean_seconds": None,
            "last_at": None,
            "skips": count,
        }
        for username, count in sorted(skipped.items())
    ]
    return counts


def funnel(project: Project) -> list[dict[str, Any]]:
    """From judgments to what may train: [{"step", "label", "count", "lost"}, …].

    `lost` is {reason: number} between the step before and this one. The first step
    counts judgments, the second comparisons, the others pairs. A pair that several
    rules reject counts as lost to the first of them, in the rules' order; a rule's
    step also has `could_not_check`. What a reviewer let through is not lost; the step
    "accepted" has its number as `let_through`. What rounds have taken of it is
    training's to say: training.figures.funnel.
    """
    outcomes: dict[str, int] = dict(
        Decision.objects.filter(
            comparison__project=project, comparison__purpose=TRAIN, superseded_at=None
        )
        .values_list("outcome")
        .annotate(Count("pk"))
    )
    pairs = _pair_counts(project)
    none = {name: outcomes.get(name, 0) for name in ("tie", "both_bad", "split")}
    checked = pairs["all"] - pairs["unchecked"]
    by_rules = _rule_steps(project, checked)
    return [
        *_judged_steps(project, outcomes),
        step_of("pairs", _("Pairs"), pairs["all"], none),
        step_of(
            "checked", _("Checked pairs"), checked, {"unchecked": pairs["unchecked"]}
        )
        | {"due": pairs["due"]},
        *by_rules,
        step_of(
            "accepted",
            _("Accepted pairs"),
            pairs["accepted"],
            {"could_not_check": by_rules[-1]["count"] - pairs["accepted"]},
        )
        | {"let_through": pairs["let_through"]},
        step_of(
            "sound",
            _("Pairs for training"),
            pairs["sound"],
            {"held_out": pairs["accepted"] - pairs["sound"]},
        ),
    ]


def _judged_steps(project: Project, outcomes: dict[str, int]) -> list[dict[str, Any]]:
    """The funnel's judgments, and its comparisons of {outcome of a decision: how many}."""
    decided = Decision.objects.filter(
        comparison=OuterRef("comparison"), superseded_at=None
    )
    judged = Judgment.objects.filter(
        project=project, undone_at=None, comparison__purpose=TRAIN
    ).aggregate(
        all=Count("pk"),
        undecided=Count("comparison", distinct=True, filter=~Exists(decided)),
    )
    in_review = outcomes.get("review", 0)
    return [
        step_of("judgments", _("Judgments"), judged["all"], {}),
        step_of(
            "decided",
            _("Decided comparisons"),
            sum(outcomes.values()) - in_review,
            {"undecided": judged["undecided"], "review": in_review},
        ),
    ]


def _pair_counts(project: Project) -> dict[str, int]:
    accepted = Q(state=PreferencePair.State.ACCEPTED)
    let_through = RuleVerdict.objects.filter(pair=OuterRef("pk"), is_let_through=True)
    return standing_pairs(project).aggregate(
        all=Count("pk"),
        unchecked=Count("pk", filter=Q(state=PreferencePair.State.UNCHECKED)),
        due=Count("pk", filter=Q(is_due=True)),
        accepted=Count("pk", filter=accepted),
        sound=Count("pk", filter=accepted & Q(prompt__is_held_out=False)),
        let_through=Count("pk", filter=accepted & Q(Exists(let_through))),
    )


def _rule_steps(project: Project, left: int) -> list[dict[str, Any]]:
    """What each rule leaves of the `left` pairs that were checked, in the rules' order."""
    rejected_by = _first_rejections(project)
    unsure = dict(
        RuleVerdict.objects.filter(
            pair__in=standing_pairs(project).order_by().values("pk"),
            result=COULD_NOT_CHECK,
        )
        .values_list("rule")
        .annotate(Count("pk"))
    )
    steps = []
    for rule in RULES:
        lost = rejected_by.get(rule, 0)
        left -= lost
        step = step_of(rule, rule_label(rule), left, {rule: lost})
        steps.append(step | {"could_not_check": unsure.get(rule, 0)})
    return steps


def rule_counts(project: Project) -> dict[str, dict[str, int]]:
    """{rule: {"reject", "could_not_check", "broke", "let_through": pairs}} of what stands.

    `broke` is the part of `could_not_check` in which the rule itself failed. A rule that
    objects to nothing is left out.
    """
    is_broken = Q(result=COULD_NOT_CHECK, reason__startswith=BROKE)
    # From the objections to their pairs, as there are fewer; a pair goes with its decision.
    found = (
        RuleVerdict.objects.filter(pair__project=project, pair__superseded_at=None)
        .exclude(result=RuleVerdict.Result.PASS)
        .order_by()
        .values("rule")
        .annotate(
            reject=Count("pk", filter=Q(result=RuleVerdict.Result.REJECT)),
            could_not_check=Count("pk", filter=Q(result=COULD_NOT_CHECK)),
            broke=Count("pk", filter=is_broken),
            let_through=Count("pk", filter=Q(is_let_through=True)),
        )
    )
    counts = {row.pop("rule"): row for row in found}
    return {rule: counts[rule] for rule in in_order(counts)}


def rule_label(rule: str) -> str:
    """A rule's name for people."""
    return {
        "identical": _("Answers differ"),
        "empty": _("No answer is empty"),
        "cut_off": _("No answer is cut off"),
        "chosen_width": _("Chosen answer is wide enough"),
        "rejected_width": _("Rejected answer is wide enough"),
        "similarity": _("Answers are not too similar"),
        "max_length": _("Fits the maximum length"),
        "identity": _("No answer tells whose model it is"),
        "repetition": _("Chosen answer does not repeat itself"),
        "personal_data": _("No personal data"),
        "language": _("Chosen answer is in the prompt’s script"),
        "refusal": _("No refusal on one side"),
        "contradiction": _("No contradicting pair"),
        "near_duplicate": _("Prompt is no near duplicate"),
    }.get(rule, rule)


def step_of(step: str, label: str, count: int, lost: dict[str, int]) -> dict[str, Any]:
    return {
        "step": step,
        "label": label,
        "count": count,
        "lost": {reason: number for reason, number in lost.items() if number},
    }


def _first_rejections(project: Project) -> dict[str, int]:
    """{rule: how many standing rejected pairs it was the first to reject}."""
    order = [When(rule=rule, then=Value(rank)) for rank, rule in enumerate(RULES)]
    first = (
        RuleVerdict.objects.filter(
            pair=OuterRef("pk"),
            result=RuleVerdict.Result.REJECT,
            is_let_through=False,
        )
        .annotate(
            rank=Case(*order, default=Value(len(RULES)), output_field=IntegerField())
        )
        .order_by("rank", "rule")
        .values("rule")[:1]
    )
    return dict(
        standing_pairs(project)
        .filter(state=PreferencePair.State.REJECTED)
        .order_by()
        .annotate(first=Subquery(first))
        .filter(first__isnull=False)
        .values_list("first")
        .annotate(Count("pk"))
    )

"""What a reviewer's desk shows: the pair, what annotators said of it, what is left.

Reads only. The answers stand in the reviewer's own order, every verdict is told in it;
whose it was only where names were asked for. No policy is named.
"""

from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from annotation import adjudicating
from annotation.counting import Counted, counted
from annotation.deciding import Method, Outcome
from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Project,
    Verdict,
)
from annotation.models.comparisons import unseen
from annotation.pages import completion_html, prompt_parts
from annotation.stock import with_system
from annotation.words import (
    criterion_words,
    outcome_words,
    strength_words,
    verdict_words,
)


@dataclass(frozen=True)
class Opinion:
    """One annotator's judgment, told in the order the reviewer sees."""

    verdict: str
    words: str
    strength: str
    reasons: list[str]
    criteria: list[tuple[str, str]]
    comment: str
    edited: SafeString | str
    seconds: float
    who: str
    is_own: bool


@dataclass(frozen=True)
class ReviewDesk:
    """Everything the partial `review` of the page shows."""

    comparison: Comparison | None
    left: Counted
    """Comparisons in the queue, this one included."""
    last: Decision | None
    yours: Counted | None = None
    """Those of them that the reviewer may settle, where others look at all of these."""
    last_words: str = ""
    why: str = ""
    first: SafeString | str = ""
    second: SafeString | str = ""
    system: SafeString | str = ""
    earlier: list[dict[str, Any]] = field(default_factory=list)
    question: dict[str, Any] | None = None
    opinions: list[Opinion] = field(default_factory=list)

    @property
    def differ(self) -> bool:
        """Whether annotators disagreed, so that it can be asked why."""
        return len({opinion.verdict for opinion in self.opinions}) > 1


def with_content(comparisons: QuerySet[Comparison]) -> QuerySet[Comparison]:
    """With what a page shows of them, without tokens and log-probs."""
    return comparisons.select_related("prompt", "a", "b").defer(
        *unseen("a", "b", also=["messages"])
    )


def lay_out(
    project: Project,
    reviewer,
    comparison: Comparison | None,
    *,
    names: bool = False,
) -> ReviewDesk:
    """The desk with this comparison on it; None where nothing is there for them."""
    last = adjudicating.last_settled(project, reviewer)
    shared: dict[str, Any] = {
        "left": adjudicating.how_many(project),
        "last": last,
        "last_words": decided_words(last, reviewer) if last else "",
    }
    if comparison is None:
        mine = adjudicating.queue_for(project, reviewer)
        yours = counted(mine, adjudicating.MOST_COUNTED)
        return ReviewDesk(None, yours=yours, **shared)
    comparison = with_content(Comparison.objects).get(pk=comparison.pk)
    first, second = answers_shown(reviewer, comparison)
    return ReviewDesk(
        comparison,
        why=why_words(comparison.decisions.filter(superseded_at=None).first()),
        first=completion_html(first),
        second=completion_html(second),
        **prompt_parts(prompt_shown(comparison)),
        opinions=opinions_on(comparison, first.pk, reviewer, names=names),
        **shared,
    )


def prompt_shown(comparison: Comparison) -> list[dict]:
    """What the answers answer: with the system prompt they were sampled with."""
    system_prompt = comparison.a.sampling.get("system_prompt", "")
    return with_system(comparison.prompt.messages, system_prompt)


def answers_shown(reviewer, comparison: Comparison) -> list[Completion]:
    """Both answers, the one this reviewer sees first first."""
    answers = {comparison.a_id: comparison.a, comparison.b_id: comparison.b}
    return [answers[pk] for pk in adjudicating.shown_to(reviewer, comparison)]


def standing_judgments() -> QuerySet[Judgment]:
    """With what is told of them; by their random ids, which tell neither whose nor when."""
    return (
        Judgment.objects.filter(undone_at=None)
        .select_related("annotator", "edited")
        .defer(*unseen("edited", also=["messages"]))
        .order_by("pk")
    )


def opinions_on(
    comparison: Comparison, first_id: int, reviewer, *, names: bool
) -> list[Opinion]:
    """What annotators said, those of one verdict together, in the order of VERDICTS."""
    told = [
        _opinion(judgment, first_id, reviewer, names)
        for judgment in standing_judgments().filter(comparison=comparison)
    ]
    return sorted(told, key=lambda opinion: Verdict.values.index(opinion.verdict))


def _opinion(judgment: Judgment, first_id: int, reviewer, names: bool) -> Opinion:
    verdict = seen(judgment.verdict, judgment.winner_id, first_id)
    return Opinion(
        verdict=verdict,
        words=verdict_words(verdict),
        strength=strength_words(judgment.strength),
        reasons=judgment.reasons,
        criteria=[
            (name, criterion_words(side))
            for name, side in criteria_told(judgment, first_id).items()
        ],
        comment=judgment.comment,
        edited=completion_html(judgment.edited) if judgment.edited else "",
        seconds=judgment.seconds,
        who=judgment.annotator.get_username() if names else "",
        is_own=judgment.annotator_id == reviewer.pk,
    )


def seen(verdict: str, winner_id: int | None, first_id: int) -> str:
    """A verdict in the order of whoever sees the answer `first_id` first."""
    if winner_id is None:
        return verdict
    return (Verdict.FIRST if winner_id == first_id else Verdict.SECOND).value


def criteria_told(judgment: Judgment, first_id: int) -> dict[str, str]:
    """{criterion: first, second or tie} in the same order."""
    return {
        name: seen(Verdict.TIE.value, won, first_id)
        for name, won in judgment.criteria.items()
    }


def why_words(standing: Decision | None) -> str:
    """Why a comparison waits, as a sentence."""
    if standing is not None and standing.outcome == Outcome.SPLIT:
        if standing.method == Method.WEIGHTED:
            return _(
                "Weighed by how far each annotator can be trusted, the likeliest verdict"
                " has a probability of %(posterior).2f: too little to decide."
            ) % {"posterior": standing.posterior}
        return _("No verdict has more than half of the judgments.")
    return _("All judgments are in; a reviewer decides.")


def decided_words(decision: Decision, reviewer) -> str:
    """A reviewer's decision in the order they saw."""
    if decision.outcome == Outcome.WINNER:
        first, _second = adjudicating.shown_to(reviewer, decision.comparison)
        return verdict_words(seen("", decision.winner_id, first))
    return outcome_words(decision.outcome)

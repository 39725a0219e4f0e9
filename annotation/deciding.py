"""From a comparison's judgments to its decision, and from that to pairs.

By majority, by weighing annotators (weights are computed in weighing.py, here they are
only read), or left to a reviewer (adjudicating.py). A change supersedes: the old decision
and its pairs keep their rows. Nothing here changes once a round has frozen a pair, nor what
a reviewer decided. Rules are checked elsewhere (checking.py).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import neighbours, project_settings, sql
from annotation.errors import Frozen
from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Slot,
    Verdict,
)
from annotation.models.pairs import FROZEN
from annotation.nudging import hint
from annotation.project_settings import DecideBy, ProjectSettings
from annotation.weighing import Weights, newest_weights

Method, Outcome = Decision.Method, Decision.Outcome
_WITHDRAWN = Comparison.State.WITHDRAWN


@dataclass(frozen=True)
class Finding:
    """What judgments come to, before it is a row."""

    outcome: str
    winner_id: int | None = None
    method: str = Method.MAJORITY
    posterior: float | None = None
    weighing_id: int | None = None


def locked(comparison_id: int) -> Comparison:
    """The comparison's row, locked until the transaction ends.

    Whoever judges, skips, undoes or decides takes this lock first, then slots, then
    leases, so they queue and never deadlock. `no_key`: a new lease's foreign key may
    still point here meanwhile.
    """
    return Comparison.objects.select_for_update(no_key=True, of=("self",)).get(
        pk=comparison_id
    )


_COMPARISON = sql.Columns(Comparison, "c")
_LOCKED = f"""
SELECT s.id, {_COMPARISON.sql} FROM annotation_comparison c
LEFT JOIN annotation_slot s ON s.lease_id = %s AND s.state = 'leased'
WHERE c.id = %s"""


def locked_with_slot(lease: Lease) -> tuple[Comparison, int | None]:
    """`locked`, and the slot that the lease held when this began to wait for the lock."""
    of_comparison = _LOCKED + sql.for_update("c")
    (row,) = sql.rows(of_comparison, lease.pk, lease.comparison_id)
    return _COMPARISON.row(row[1:]), row[0]


def locked_all(comparison_ids: Collection[int]) -> dict[int, Comparison]:
    """`locked` for several, {id: row}: in order, so that two never wait for each other."""
    rows = Comparison.objects.select_for_update(no_key=True, of=("self",))
    return {row.pk: row for row in rows.filter(pk__in=comparison_ids).order_by("pk")}


_COUNT = """
UPDATE annotation_comparison SET judged = (SELECT COUNT(*) FROM annotation_judgment j
    WHERE j.comparison_id = annotation_comparison.id AND j.undone_at IS NULL)
WHERE id = %s"""


def count_judgments(comparison_id: int) -> None:
    """Keep `judged` true. Counted anew each time, so nothing can add up to a drift."""
    sql.changed(_COUNT, comparison_id)


_DECISION = sql.Columns(Decision, "d")
_STANDING = f"""
SELECT EXISTS (SELECT 1 FROM annotation_slot s WHERE s.comparison_id = c.id
    AND s.state IN ('leased', %s)), {_DECISION.sql}
FROM annotation_comparison c
LEFT JOIN annotation_decision d ON d.comparison_id = c.id AND d.superseded_at IS NULL
WHERE c.id = %s"""
_DECIDED = "UPDATE annotation_comparison SET state = 'decided' WHERE id = %s"
_JUDGMENT = sql.Columns(Judgment, "j")
_JUDGMENTS = f"""
SELECT {_JUDGMENT.sql} FROM annotation_judgment j
WHERE j.comparison_id = %s AND j.undone_at IS NULL ORDER BY j.created_at"""


def standing_judgments(comparison: Comparison) -> list[Judgment]:
    """Those that were not undone, the first one first."""
    return [_JUDGMENT.row(row) for row in sql.rows(_JUDGMENTS, comparison.pk)]


def decide_locked(comparison: Comparison) -> Decision | None:
    """The standing decision; None while a slot waits. Raises Frozen.

    `comparison` is a row that `locked` gave in this transaction. How judgments decide is
    the project's setting `decide_by`. A reviewer's decision stands whatever they say.
    """
    # What is left open of a withdrawn comparison will never be filled.
    is_withdrawn = comparison.withdrawn_at or comparison.state == _WITHDRAWN
    unfilled = Slot.State.LEASED if is_withdrawn else Slot.State.OPEN
    (row,) = sql.rows(_STANDING, unfilled, comparison.pk)
    waits, standing = row[0], _DECISION.row(row[1:]) if row[1] else None
    if waits and standing is None:
        return None
    if standing is not None and standing.method == Method.REVIEWER:
        return standing
    judgments = standing_judgments(comparison)
    if waits or not judgments:
        if standing is not None:
            supersede(standing)
        return None
    finding = find(comparison, judgments)
    if standing is not None:
        if (standing.outcome, standing.winner_id) == (
            finding.outcome,
            finding.winner_id,
        ):
            return standing
        supersede(standing)
    return record(comparison, judgments, finding)


def reopen(comparison: Comparison) -> None:
    """What no decision stands on any more is offered again, if it was not withdrawn."""
    back = _WITHDRAWN if comparison.withdrawn_at else Comparison.State.OPEN
    decided = Comparison.objects.filter(
        pk=comparison.pk, state=Comparison.State.DECIDED
    )
    if decided.update(state=back):
        comparison.state = back


def standing_decision(comparison: Comparison) -> Decision | None:
    return Decision.objects.filter(comparison=comparison, superseded_at=None).first()


def find(comparison: Comparison, judgments: list[Judgment]) -> Finding:
    """What the judgments come to by the project's settings; reads weights at most."""
    own = project_settings.of(comparison.project)
    weights = None
    if own.decide_by == DecideBy.WEIGHTED and len(judgments) > 1:
        people = [judgment.annotator_id for judgment in judgments]
        weights = newest_weights(comparison.project_id, people)
    return found_by(own, comparison, judgments, weights)


def found_by(
    own: ProjectSettings,
    comparison: Comparison,
    judgments: Sequence[Judgment],
    weights: Weights | None,
) -> Finding:
    """The same with the weights at hand; no query.

    What doesn't train is measured, not settled: it goes by majority. So does what only
    one person judged: there is nothing to weigh against, and a project that asks twice
    for a share of its comparisons wants the rest decided by that one. So does everything
    until the first weights are there.
    """
    trains = comparison.purpose == Comparison.Purpose.TRAIN
    if trains and needs_reviewer(own, judgments):
        return Finding(Outcome.REVIEW.value)
    if trains and weights is not None and len(judgments) > 1:
        label, posterior = weights.likeliest(comparison, judgments)
        kept = {
            "method": Method.WEIGHTED.value,
            "posterior": posterior,
            "weighing_id": weights.weighing_id,
        }
        if posterior < own.min_posterior:
            return Finding(Outcome.SPLIT.value, **kept)
        winner_id = {"a": comparison.a_id, "b": comparison.b_id}.get(label)
        return Finding(Outcome.WINNER.value if winner_id else label, winner_id, **kept)
    return Finding(*_majority(judgments))


def needs_reviewer(own: ProjectSettings, judgments: Sequence[Judgment]) -> bool:
    """Whether counting is not to decide, whatever the judgments say: the project wants
    it so, or one of them is by somebody below the floor on gold."""
    return own.decide_by == DecideBy.REVIEWER or any(
        judgment.waits_for_review for judgment in judgments
    )


def _majority(judgments: Sequence[Judgment]) -> tuple[str, int | None]:
    """One verdict of more than half of the judgments; else they are split."""
    votes: Counter[tuple[str, int | None]] = Counter(
        (Outcome.WINNER.value, judgment.winner_id)
        if judgment.winner_id
        else (Verdict(judgment.verdict).value, None)
        for judgment in judgments
    )
    vote, count = votes.most_common(1)[0]
    if 2 * count > len(judgments):
        return vote
    return Outcome.SPLIT.value, None


def record(
    comparison: Comparison,
    judgments: Sequence[Judgment],
    finding: Finding,
    **by_reviewer: object,
) -> Decision:
    """The finding as the standing decision, with its pairs; nothing else may stand."""
    decision = sql.insert(
        Decision(
            comparison=comparison,
            outcome=finding.outcome,
            winner_id=finding.winner_id,
            method=finding.method,
            posterior=finding.posterior,
            weighing_id=finding.weighing_id,
            **by_reviewer,
        )
    )
    sql.changed(_DECIDED, comparison.pk)
    if finding.winner_id and comparison.purpose == Comparison.Purpose.TRAIN:
        _make_pairs(comparison, decision, judgments)
    return decision


def _make_pairs(
    comparison: Comparison, decision: Decision, judgments: Sequence[Judgment]
) -> None:
    """better > worse, and edited > better for each way in which the better one was
    improved."""
    won = [j for j in judgments if j.winner_id == decision.winner_id]
    weight = 1.0
    if any(j.strength for j in won):
        weights = project_settings.of(comparison.project).strength_weights
        weight = sum(weights.get(str(j.strength), 1.0) for j in won) / len(won)
    loser_id = (
        comparison.b_id if decision.winner_id == comparison.a_id else comparison.a_id
    )
    pairs = [
        PreferencePair(
            kind=PreferencePair.Kind.JUDGED,
            chosen_id=decision.winner_id,
            rejected_id=loser_id,
            weight=weight,
        )
    ]
    # Each weighs 1: how much better the winner was says nothing of its improvement.
    pairs += [
        PreferencePair(
            kind=PreferencePair.Kind.EDITED,
            chosen_id=edited_id,
            rejected_id=decision.winner_id,
        )
        for edited_id in _different([j.edited_id for j in won if j.edited_id])
    ]
    for pair in pairs:
        pair.project_id = comparison.project_id
        pair.prompt_id = comparison.prompt_id
        pair.decision = decision
        sql.insert(pair)
    transaction.on_commit(ask_for_checks, robust=True)


def _different(edits: list[int]) -> list[int]:
    """Without those that say what an earlier one says; a query where there are several."""
    if len(edits) < 2:
        return edits
    texts = dict(Completion.objects.filter(pk__in=edits).values_list("pk", "text"))
    first: dict[str, int] = {}
    for pk in edits:
        first.setdefault(texts[pk].strip(), pk)
    return list(first.values())


def ask_for_checks() -> None:
    """So that who judges and then starts a round finds the pairs in it."""
    from annotation.tasks import check_pairs  # It imports this module.

    hint(check_pairs, expires=10)


def supersede(decision: Decision) -> None:
    """End a decision and its pairs; raises Frozen if a round has one of them.

    What other pairs were found to be because of these is asked again.

    The condition is in the UPDATE and looked at again after it, under the rows'
    locks, so a round that freezes at the same moment wins or loses whole.
    """
    now = timezone.now()
    with transaction.atomic():
        pairs = PreferencePair.objects.filter(decision=decision)
        neighbours.lock_around(pairs)
        leaving = list(pairs.filter(frozen_at=None, superseded_at=None))
        pairs.filter(frozen_at=None, superseded_at=None).update(superseded_at=now)
        if pairs.filter(FROZEN).exists():
            raise Frozen(
                _("A training round has used this judgment, so it can't be changed.")
            )
        Decision.objects.filter(pk=decision.pk, superseded_at=None).update(
            superseded_at=now
        )
        if sum(neighbours.reopen_after(pair) for pair in leaving):
            transaction.on_commit(ask_for_checks, robust=True)

"""Deciding anew after the weights or the project's way of deciding changed; by a task.

Never what a reviewer decided, nor what a round has taken. A changed outcome supersedes the
old decision; one that stays as it was is left alone, with its pairs.
"""

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from annotation import project_settings
from annotation.batches import in_batches, paged
from annotation.deciding import (
    Method,
    Outcome,
    decide_locked,
    found_by,
    locked,
    standing_decision,
)
from annotation.errors import Frozen
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    PreferencePair,
    Project,
    Slot,
)
from annotation.models.pairs import FROZEN
from annotation.project_settings import DecideBy, ProjectSettings
from annotation.weighing import Weights, newest_weights, weigh, weighing_due


def bring_up_to_date(project: Project) -> int:
    """New weights where the project weighs and they are due, then its decisions.

    How many decisions changed.
    """
    weighs = project_settings.of(project).decide_by == DecideBy.WEIGHTED
    if weighs and weighing_due(project):
        weigh(project)
    return _decide_as_asked(project)


def weigh_if_due(project: Project) -> int:
    """The same, only if there are new weights: else nothing would change."""
    if not weighing_due(project) or weigh(project) is None:
        return 0
    return _decide_as_asked(project)


def _decide_as_asked(project: Project) -> int:
    """Decide again by the settings of now, and take off the mark that asks for it, unless
    they were changed once more meanwhile."""
    now = Project.objects.get(pk=project.pk)
    changed = decide_again(now)
    asked = Project.objects.filter(
        pk=project.pk, decide_again_since=now.decide_again_since
    )
    asked.update(decide_again_since=None)
    return changed


def decide_again(project: Project) -> int:
    """Decide what may still change by the settings and weights of now; how many did.

    A project that leaves decisions to reviewers keeps those it has: the setting is for
    what is judged from now on.
    """
    own = project_settings.of(project)
    if own.decide_by == DecideBy.REVIEWER:
        return 0
    weighs = own.decide_by == DecideBy.WEIGHTED
    weights = newest_weights(project.pk) if weighs else None
    changed = 0
    for batch in in_batches(paged(_changeable(project))):
        changed += sum(map(_decided_anew, _stale(batch, own, weights)))
    return changed


def _changeable(project: Project) -> QuerySet[Decision]:
    """Standing decisions by count that more than one judgment or nothing decided yet."""
    here = OuterRef("comparison")
    return (
        Decision.objects.filter(
            Q(outcome__in=[Outcome.SPLIT, Outcome.REVIEW])
            | Exists(Slot.objects.filter(comparison=here, number=2)),
            ~Exists(PreferencePair.objects.filter(FROZEN, decision=OuterRef("pk"))),
            comparison__project=project,
            comparison__purpose=Comparison.Purpose.TRAIN,
            superseded_at=None,
        )
        .exclude(method=Method.REVIEWER)
        .select_related("comparison")
    )


def _stale(
    decisions: list[Decision],
    own: ProjectSettings,
    weights: Weights | None,
) -> list[int]:
    """The comparisons of a batch that would be decided otherwise now; one query."""
    judgments: dict[int, list[Judgment]] = {}
    standing = Judgment.objects.filter(
        comparison__in=[decision.comparison_id for decision in decisions],
        undone_at=None,
    )
    for judgment in standing:
        judgments.setdefault(judgment.comparison_id, []).append(judgment)
    stale = []
    for decision in decisions:
        given = judgments.get(decision.comparison_id, [])
        if not given:
            continue  # Undone at this moment: who undid it sees to the decision.
        finding = found_by(own, decision.comparison, given, weights)
        was = decision.outcome, decision.winner_id
        if (finding.outcome, finding.winner_id) != was:
            stale.append(decision.comparison_id)
    return stale


def _decided_anew(comparison_id: int) -> bool:
    """In a short transaction of its own, looked at again under the lock."""
    try:
        with transaction.atomic():
            comparison = locked(comparison_id)
            was = standing_decision(comparison)
            return decide_locked(comparison) != was
    except Frozen:
        return False  # A round took it meanwhile.

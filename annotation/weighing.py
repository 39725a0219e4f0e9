"""Annotators' weights: fitted now and then by a task, stored, and read when deciding.

One judgment never costs a fit. Labels are which answer won (quality.LABELS); which of a
comparison's two answers is a is an accident of sampling, so truth and error rates are held
alike under a swap (`mirror`). Sides as shown would be no better: the same truth would be
"first" to one annotator and "second" to the next. Leaves out the method itself
(dawid_skene.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from django.db import transaction
from django.db.models import Count, Prefetch, Q
from django.utils import timezone

from annotation import dawid_skene
from annotation.models import (
    AnnotatorWeight,
    Comparison,
    Decision,
    Judgment,
    Project,
    Weighing,
)
from annotation.quality import LABELS, label_of

MIRROR = (1, 0, 2, 3)
"""LABELS with a and b swapped."""
SMOOTHING = 10.0
"""Judgments of each true label that an annotator is given as the average annotator's:
who has few weighs much like the average, who has hundreds by what they did."""
LEAST_COMPARISONS = 20
"""Judged by two or more; below, a majority says more than a fit of so little."""
MOST_JUDGMENTS = 500_000
"""The newest ones: memory is bounded, and people are weighed as they judge now."""
GROWN_BY = 0.05
"""A fit is made anew when so large a share of its judgments has come since."""


@dataclass(frozen=True)
class Weights:
    """A weighing with the error rates of those at hand."""

    weighing_id: int
    prior: list[float]
    average: list[list[float]]
    errors: dict[int, list[list[float]]]
    """Of annotators that the weighing saw; the others weigh as the average."""

    def likeliest(
        self, comparison: Comparison, judgments: Sequence[Judgment]
    ) -> tuple[str, float]:
        """Of LABELS the likeliest truth, and its probability given the judgments."""
        chances = dawid_skene.posterior(
            self.prior,
            [self.errors.get(j.annotator_id, self.average) for j in judgments],
            [
                label_of(j.verdict, j.winner_id, comparison.a_id, comparison.b_id)
                for j in judgments
            ],
        )
        best = int(chances.argmax())
        return LABELS[best], min(1.0, float(chances[best]))


def newest_weights(
    project_id: int, annotators: Iterable[int] | None = None
) -> Weights | None:
    """Those to decide by, of these annotators or of all; None before the first fit.

    Two queries.
    """
    weighing = Weighing.objects.filter(project=project_id).order_by("-id").first()
    if weighing is None:
        return None
    weights = AnnotatorWeight.objects.filter(weighing=weighing)
    if annotators is not None:
        weights = weights.filter(annotator__in=list(annotators))
    errors = dict(weights.values_list("annotator", "errors"))
    return Weights(weighing.pk, weighing.prior, weighing.average, errors)


def newest_with_weights(project: Project) -> Weighing | None:
    """To be shown: `weights` come with their annotators, who judged most first."""
    weights = AnnotatorWeight.objects.select_related("annotator")
    newest = Weighing.objects.filter(project=project).order_by("-id")
    return newest.prefetch_related(
        Prefetch("weights", weights.order_by("-judgments", "annotator__username"))
    ).first()


def weighing_due(project: Project) -> bool:
    """Whether enough was judged since the newest weighing to make another."""
    newest = Weighing.objects.filter(project=project).order_by("-id").first()
    if newest is None:
        return True
    since = Judgment.objects.filter(
        Q(created_at__gt=newest.created_at) | Q(undone_at__gt=newest.created_at),
        project=project,
    )
    return since.count() > max(LEAST_COMPARISONS, GROWN_BY * newest.judgments)


def weigh(project: Project) -> Weighing | None:
    """Fit the project's judgments and store the weights; None where there are too few.

    Decisions are then due to be made anew (redeciding.py)."""
    rows = _judgments(project)
    if not len(rows):
        return None
    comparisons, item = np.unique(rows[:, 0], return_inverse=True)
    if len(comparisons) < LEAST_COMPARISONS:
        return None
    annotators, who = np.unique(rows[:, 1], return_inverse=True)
    truth = _settled(project, comparisons)
    fitted = dawid_skene.fit(
        item,
        who,
        rows[:, 2],
        n_labels=len(LABELS),
        mirror=MIRROR,
        truth=truth,
        smoothing=SMOOTHING,
    )
    counts = np.bincount(who)
    right = np.einsum("j,kjj->k", fitted.prior, fitted.errors).clip(0, 1)
    with transaction.atomic():
        weighing = Weighing.objects.create(
            project=project,
            comparisons=len(comparisons),
            judgments=len(rows),
            settled=int((truth != dawid_skene.UNKNOWN).sum()),
            iterations=fitted.iterations,
            prior=fitted.prior.tolist(),
            average=fitted.average.tolist(),
        )
        AnnotatorWeight.objects.bulk_create(
            AnnotatorWeight(
                weighing=weighing,
                annotator_id=int(annotators[place]),
                judgments=int(counts[place]),
                errors=fitted.errors[place].tolist(),
                accuracy=float(right[place]),
            )
            for place in range(len(annotators))
        )
        Project.objects.filter(pk=project.pk).update(decide_again_since=timezone.now())
    return weighing


def _judgments(project: Project) -> np.ndarray:
    """(N, 3) comparison, annotator and label of training comparisons judged by several."""
    standing = Judgment.objects.filter(
        project=project, undone_at=None, comparison__purpose=Comparison.Purpose.TRAIN
    )
    several = (
        Judgment.objects.filter(project=project, undone_at=None)
        .order_by()
        .values("comparison")
        .annotate(n=Count("pk"))
        .filter(n__gt=1)
        .values("comparison")
    )
    rows = (
        standing.filter(comparison__in=several)
        .order_by("-created_at")
        .values_list(
            "comparison",
            "annotator",
            "verdict",
            "winner",
            "comparison__a",
            "comparison__b",
        )[:MOST_JUDGMENTS]
    )
    found = [
        (comparison, annotator, label_of(verdict, winner, a, b))
        for comparison, annotator, verdict, winner, a, b in rows.iterator()
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _settled(project: Project, comparisons: np.ndarray) -> np.ndarray:
    """What reviewers said of the comparisons, as labels; UNKNOWN of the others."""
    truth = np.full(len(comparisons), dawid_skene.UNKNOWN)
    decided = (
        Decision.objects.filter(
            decided_by__isnull=False,
            superseded_at=None,
            comparison__project=project,
        )
        .exclude(outcome=Decision.Outcome.SPLIT)
        .values_list(
            "comparison", "outcome", "winner", "comparison__a", "comparison__b"
        )
    )
    for comparison, outcome, winner, a, b in decided.iterator():
        place = int(np.searchsorted(comparisons, comparison))
        if place < len(comparisons) and comparisons[place] == comparison:
            truth[place] = label_of(outcome, winner, a, b)
    return truth

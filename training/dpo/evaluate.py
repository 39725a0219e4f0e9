"""The loss of a forward pass, and every pair's figures under the policy as it stands.

The reference pass and the evaluation lay out their forward passes alike, so that a
policy equal to its reference gives margins of exactly 0. Leaves out training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from training.dpo.batches import Layout
from training.dpo.forward import RowScores, score_set
from training.dpo.loss import LossSettings, PairLogps, pair_losses
from training.dpo.metrics import Figures
from training.dpo.reference import PairSet


@dataclass(frozen=True)
class Objective:
    """The loss of a run: names with weights, and their settings."""

    weights: dict[str, float]
    settings: LossSettings


def figure_losses(
    scores: RowScores, data: PairSet, indexes: list[int], objective: Objective
) -> tuple[Tensor, PairLogps]:
    """Per-pair losses (B,) and the log-probs they came from."""
    chosen, rejected = scores.logps.chunk(2)
    device = chosen.device
    logps = PairLogps(
        chosen,
        rejected,
        data.reference.chosen[indexes].to(device),
        data.reference.rejected[indexes].to(device),
    )
    return pair_losses(objective.weights, logps, objective.settings), logps


def evaluate(
    model: Any,
    data: PairSet,
    layout: Layout,
    objective: Objective,
    each: Callable[[int], None],
) -> Figures:
    """Every pair's figures under the policy as it stands."""
    figures = Figures(objective.settings.beta)
    for indexes, scores in score_set(model, data.pairs, layout, each):
        losses, logps = figure_losses(scores, data, indexes, objective)
        figures.add(data, indexes, scores, losses, logps)
    return figures

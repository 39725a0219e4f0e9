"""The gradient of one optimizer step. Leaves out the optimizer and the loop; see
`train.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.dpo.answer_figures import AnswerFigures
from training.dpo.answer_step import backward_answers
from training.dpo.backward import backward_each
from training.dpo.batches import rows_of
from training.dpo.distributed import world_size
from training.dpo.evaluate import StepWeights, logps_of, step_weights
from training.dpo.forward import RowScores
from training.dpo.loss import pair_losses
from training.dpo.loss_inputs import PairLogps, everyones
from training.dpo.metrics import Figures
from training.dpo.run_state import Run


def backward_step(run: Run, indexes: list[int]) -> Figures | AnswerFigures:
    """Add the gradient of Σ weight·loss / Σ weight over `indexes` to the parameters.

    Split into forward passes by memory; which pairs share one changes nothing.
    """
    if run.objective.unpaired:
        return backward_answers(run, indexes)
    figures = Figures(run.objective)
    step = step_weights(run.data.pairs, indexes)
    parts = run.engine.split_pairs(run.data.pairs, indexes)
    if run.objective.coupled and (len(parts) > 1 or world_size() > 1):
        _backward_coupled(run, parts, step, figures)
        return figures

    def loss_of(
        part: list[int],
    ) -> tuple[Tensor, tuple[list[int], RowScores, PairLogps, Tensor]]:
        scores, logps = _score(run, part, step)
        losses = pair_losses(run.objective.weights, logps, run.objective.settings)
        return _mean(losses, logps), (part, scores, logps, losses)

    for part, scores, logps, losses in backward_each(run, loss_of, parts):
        figures.add(run.data, part, scores, logps)
        figures.add_losses(losses)
    return figures


def _backward_coupled(
    run: Run, parts: Sequence[list[int]], step: StepWeights, figures: Figures
) -> None:
    """Where a pair's loss depends on all others, which do not fit one forward pass, or
    are on other processes.

    A first round of passes without gradients gives every log-prob, from them the loss
    and its derivative with respect to each; a second round carries those back. It costs
    one more forward pass of the step, and the memory of one part of it.
    """
    # The second round must draw the same dropout.
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices), torch.no_grad():
        first = run.engine.each(lambda part: _score(run, part, step)[1], parts)
        known, mine = everyones(list(first))
    asked = ("chosen", "rejected", "chosen_mean", "rejected_mean")
    leaves = [getattr(known, name).requires_grad_() for name in asked]
    losses = pair_losses(run.objective.weights, known, run.objective.settings)
    slopes = torch.autograd.grad(_mean(losses, known), leaves, materialize_grads=True)
    sizes = [len(part) for part in parts]
    split = (slope[mine].split(sizes) for slope in slopes)

    def carried_back(
        given: tuple[Any, ...],
    ) -> tuple[Tensor, tuple[list[int], RowScores, PairLogps]]:
        part, *slope = given
        scores, logps = _score(run, part, step)
        terms = [
            (gradient.to(logps.weights.device) * getattr(logps, name)).sum()
            for name, gradient in zip(asked, slope, strict=True)
        ]
        return torch.stack(terms).sum(), (part, scores, logps)

    given = list(zip(parts, *split, strict=True))
    for part, scores, logps in backward_each(run, carried_back, given):
        figures.add(run.data, part, scores, logps)
    figures.add_losses(losses[mine])


def _score(run: Run, part: list[int], step: StepWeights) -> tuple[RowScores, PairLogps]:
    scores = run.engine.score(rows_of([run.data.pairs[index] for index in part]))
    return scores, logps_of(scores, run.data, part, run.objective, step)


def _mean(losses: Tensor, logps: PairLogps) -> Tensor:
    return (losses * logps.weights).sum()

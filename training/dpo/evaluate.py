"""The loss of a forward pass, and every pair's figures under the policy as it stands.

The reference pass and the evaluation lay out their forward passes alike, so that a
policy equal to its reference gives margins of exactly 0. Leaves out training.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from training.dpo.forward import Engine, RowScores, score_set
from training.dpo.loss import Objective, PairLogps, pair_losses
from training.dpo.metrics import Figures
from training.dpo.reference import PairSet
from training.dpo.run_state import Run
from training.dpo.scored import held_out_intervals, keep_held_out


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
    engine: Engine,
    data: PairSet,
    objective: Objective,
    each: Callable[[int], None],
) -> Figures:
    """Every pair's figures under the policy as it stands."""
    figures = Figures(objective.settings.beta)
    for indexes, scores in score_set(engine, data.pairs, each):
        losses, logps = figure_losses(scores, data, indexes, objective)
        figures.add(data, indexes, scores, losses, logps)
    return figures


def evaluate_held_out(run: Run) -> dict[str, Any]:
    """The held-out pairs' figures under `eval_…` names, with intervals over prompts.

    Also writes held_out_scored.jsonl. A stop waits for its end.
    """
    assert run.held_out is not None
    pairs = run.held_out.pairs
    run.status.phase("evaluating", len(pairs))
    figures = evaluate(
        run.engine,
        run.held_out,
        run.objective,
        lambda done: run.status.progress(phase_done=done),
    )
    keep_held_out(run.folder, pairs, figures)
    intervals = held_out_intervals(pairs, figures)
    return figures.metrics("eval_") | {f"eval_{k}": v for k, v in intervals.items()}

"""What losses are computed from, and every pair's figures under the policy as it stands.

The reference pass and the evaluation lay out their forward passes alike, so that a
policy equal to its reference gives margins of exactly 0 (within rounding where log-probs
come from a cache that other runs filled). Leaves out training.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from training.dpo.answer_figures import AnswerFigures
from training.dpo.answer_step import evaluate_answers
from training.dpo.batches import pair_rows
from training.dpo.data import Answer, Pair
from training.dpo.defaults import evaluation_steps
from training.dpo.distributed import merge, summed
from training.dpo.forward import Engine, RowScores, score_set
from training.dpo.loss import Objective, pair_losses
from training.dpo.loss_inputs import PairLogps, everyones
from training.dpo.metrics import Figures
from training.dpo.phases import Phase
from training.dpo.reference import PairSet
from training.dpo.run_state import Run
from training.dpo.scored import held_out_intervals, keep_held_out
from training.dpo.sharding import is_sharded

UNLIKELY = 1e-3
"""A token of less probability is one that the base all but never writes there."""


@dataclass(frozen=True)
class StepWeights:
    """Over a step's pairs: Σ weight, and Σ weight · chosen tokens / Σ weight.

    Known before the first forward pass, so that a loss over all tokens of the step
    does not depend on how the step is split.
    """

    total: float
    chosen_tokens: float


def step_weights(pairs: Sequence[Pair], indexes: Sequence[int]) -> StepWeights:
    """The sums over a step's pairs that the losses of any part of it need."""
    chosen = [pairs[index] for index in indexes]
    weight = sum(pair.weight for pair in chosen)
    tokens = sum(pair.weight * pair.chosen_scored for pair in chosen)
    return StepWeights(weight, tokens / weight)


def logps_of(
    scores: RowScores,
    data: PairSet,
    indexes: list[int],
    objective: Objective,
    step: StepWeights,
) -> PairLogps:
    """The log-probs that the losses of these pairs are made of."""
    chosen, rejected = scores.pair_logps(objective.ld_alpha)
    pairs = [data.pairs[index] for index in indexes]
    lengths = chosen.new_tensor(scores.lengths)
    chosen_mean, rejected_mean = (scores.logps / lengths).chunk(2)
    return PairLogps(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=data.reference.chosen[indexes].to(chosen.device),
        ref_rejected=data.reference.rejected[indexes].to(chosen.device),
        chosen_mean=chosen_mean,
        rejected_mean=rejected_mean,
        chosen_tokens=chosen.new_tensor([len(pair.chosen_ids) for pair in pairs]),
        rejected_tokens=chosen.new_tensor([len(pair.rejected_ids) for pair in pairs]),
        chosen_share=lengths.chunk(2)[0] / step.chosen_tokens,
        weights=chosen.new_tensor([pair.weight / step.total for pair in pairs]),
    )


def evaluate(
    engine: Engine,
    data: PairSet,
    objective: Objective,
    each: Callable[[int], None],
) -> Figures | AnswerFigures:
    """Every pair's figures under the policy as it stands, all of them as one step."""
    if objective.unpaired:
        return evaluate_answers(engine, data, objective, each)
    figures = Figures(objective)
    step = step_weights(data.pairs, range(len(data.pairs)))
    parts = []
    for indexes, scores in score_set(engine, data.pairs, each):
        logps = logps_of(scores, data, indexes, objective, step)
        figures.add(data, indexes, scores, logps)
        parts.append(logps)
    known, mine = everyones(parts)
    losses = pair_losses(objective.weights, known, objective.settings)
    figures.add_losses(losses[mine])
    merge(figures)
    return figures


def evaluation_interval(run: Run, phase: Phase) -> int:
    """Steps between evaluations of the held-out pairs, given or chosen."""
    if run.config.eval_steps is not None:
        return run.config.eval_steps
    held_out = run.held_out.pairs if run.held_out is not None else []
    tokens = sum(pair.tokens for pair in held_out)
    return evaluation_steps(phase.schedule.total_steps, phase.tokens, tokens)


def unlikely_held_out(run: Run) -> dict[str, float] | None:
    """How often the policy would leave a held-out chosen answer for a token that the base
    all but never writes there, and how often the base itself: means over the tokens of
    {"policy", "base"}. None where there is no base beside the policy, no such pair, or
    no number.
    """
    engine = run.engine
    told = run.held_out.pairs if run.held_out is not None else []
    chosen = [p for p in told if not isinstance(p, Answer) or p.label]
    if not chosen or run.config.tuning == "full" or is_sharded(engine.causal_lm):
        return None
    rows = [pair_rows(pair)[0] for pair in chosen]
    sums = torch.zeros(3, dtype=torch.float64)
    for places in engine.split([[row] for row in rows]):
        run.stop.check()
        found = engine.unlikely([rows[place] for place in places], UNLIKELY)
        policy, base = (float(masses.double().sum()) for masses in found)
        sums += torch.tensor([policy, base, len(found[0])], dtype=torch.float64)
    policy, base, tokens = summed(sums).tolist()
    if not tokens or not math.isfinite(policy + base):
        return None
    return {"policy": policy / tokens, "base": base / tokens}


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

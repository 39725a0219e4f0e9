"""The training loop: phases of steps, their lines in metrics.jsonl, checkpoints, stopping.

Everything a step depends on is in the config, the data or the checkpoint, so that a
run stopped and resumed writes the same metrics.jsonl as one left alone (bit for bit on
a CPU; `pairs_per_second` apart). DPO after supervised training is, bit for bit, the
DPO of a run of its own from the weights that ended the latter: the optimizer starts
afresh. Leaves out loading and the work after the last step; see
`run.py`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from training.dpo.adapter import set_dropout
from training.dpo.anchor import refuse_lost_reference
from training.dpo.answer_figures import AnswerFigures
from training.dpo.config import SEEDS, TrainingConfig
from training.dpo.data import Pair
from training.dpo.distributed import (
    any_rank,
    from_main,
    merge,
    rank,
    sum_gradients,
)
from training.dpo.errors import Stopped, TrainerError
from training.dpo.evaluate import evaluate_held_out, evaluation_interval
from training.dpo.full import refresh
from training.dpo.machine import give_back_memory
from training.dpo.metrics import Figures
from training.dpo.not_finite import not_finite_sentence
from training.dpo.optim import make_optimizer
from training.dpo.phases import DPO, SFT, Phase, work_left
from training.dpo.progress import Progress
from training.dpo.resume import Checkpoint, open_checkpoint, save_run
from training.dpo.run_state import Position, Run
from training.dpo.scored import forget_held_out
from training.dpo.sft import SupervisedFigures, evaluate_supervised, supervised_step
from training.dpo.sharding import whole
from training.dpo.step import backward_step
from training.dpo.watch import look_if_due
from training.dpo.weight_hash import hash_tensors

SAVE_SECONDS = 60.0
"""Work lost at most to a kill when config.json gives no `save_steps`."""


AnyFigures = Figures | AnswerFigures | SupervisedFigures


@dataclass(frozen=True)
class Method:
    """What a phase does with pairs: a step's gradient, the held-out pairs' figures, and
    how many of a pair's tokens it counts.
    """

    backward: Callable[[Run, list[int]], AnyFigures]
    evaluate: Callable[[Run], dict[str, Any]]
    tokens: Callable[[Pair], int]
    status: str


METHODS = {
    SFT: Method(
        supervised_step, evaluate_supervised, lambda pair: pair.chosen_tokens, "sft"
    ),
    DPO: Method(backward_step, evaluate_held_out, lambda pair: pair.tokens, "training"),
}


def train(run: Run) -> Position:
    """Take the run from its newest checkpoint, or the start, to its last step.

    Raises Stopped after writing a checkpoint if a stop was asked for, TrainerError if
    the loss is no number any more or the disk is full.
    """
    checkpoint = open_checkpoint(run)
    position = checkpoint.position if checkpoint is not None else Position()
    clock = _Clock(run, position.step)
    for phase in run.phases:
        # A run that was done is still given its last phase's weights and reference.
        if position.step < phase.last or phase is run.phases[-1]:
            optimizer = _enter(run, phase, position, checkpoint)
            give_back_memory()
            _train_phase(run, phase, optimizer, position, clock)
            checkpoint = None
    clock.progress.close()
    return position


class _Clock:
    """Tells how far the run is, and how long what is left will take."""

    def __init__(self, run: Run, step: int) -> None:
        self.run, self.seconds = run, 0.0
        self.before = work_left(run.phases, step)
        self.progress = Progress("training", run.total_steps, step)

    def tell(
        self, phase: Phase, step: int, row: dict[str, Any], seconds: float
    ) -> None:
        self.seconds += seconds
        left = work_left(self.run.phases, step)
        eta = round(self.seconds * left / (self.before - left), 1)
        name = METHODS[phase.name].status
        self.run.status.progress(phase=name, step=step, eta_seconds=eta)
        self.progress.reach(step, row)


def _enter(
    run: Run, phase: Phase, position: Position, checkpoint: Checkpoint | None
) -> torch.optim.AdamW:
    """Bring weights, reference and optimizer to where `phase` is.

    Every phase begins with a fresh optimizer: AdamW's means are those of another
    loss's gradients, and with a warm-up of its own they would be stale or too small.
    """
    is_begun = position.step > phase.first
    moves_reference = phase.name == DPO and len(run.phases) > 1
    moves_reference = moves_reference and run.config.reference == "start"
    moves_reference = moves_reference and run.objective.has_reference
    if is_begun and moves_reference:
        assert checkpoint is not None
        _find_reference(run, checkpoint.state["after_sft"])
    optimizer = make_optimizer(run.parameters, run.config)
    if checkpoint is not None:
        checkpoint.restore_weights(run)
    if is_begun:
        assert checkpoint is not None
        checkpoint.restore_optimizer(run, optimizer)
    elif moves_reference:
        run.anchor.keep_weights(run.parameters)
        _measure_reference(run, hash_tensors(run.parameters))
    return optimizer


def _find_reference(run: Run, wanted: str) -> None:
    """The reference of a DPO phase already begun, from its kept weights or its cache."""
    is_there = run.anchor.load_weights(run.parameters, wanted)
    _measure_reference(run, wanted, None if is_there else refuse_lost_reference)


def _measure_reference(
    run: Run, adapter_hash: str, refuse: Callable[[], None] | None = None
) -> None:
    def referred(data: Any) -> Any:
        logps = run.anchor.under_adapter(
            data.pairs, adapter_hash, run.objective.ld_alpha, refuse
        )
        return replace(data, reference=logps)

    run.data = referred(run.data)
    run.held_out = referred(run.held_out) if run.held_out is not None else None
    run.after_sft = adapter_hash


def _train_phase(
    run: Run,
    phase: Phase,
    optimizer: torch.optim.AdamW,
    position: Position,
    clock: _Clock,
) -> None:
    """The phase's steps from `position` on; a checkpoint after the last one."""
    method = METHODS[phase.name]
    total = run.total_steps
    evaluates, every = run.held_out is not None, evaluation_interval(run, phase)
    at_start: dict[str, Any] = {}
    if position.step == phase.first and evaluates:
        forget_held_out(run.folder)
        at_start = method.evaluate(run)
        run.started_with[phase.name] = at_start
    run.status.phase(method.status, step=position.step, total_steps=total)
    saved_at = time.monotonic()
    while position.step < phase.last:
        if any_rank(run.stop.requested):
            save_run(run, optimizer, position)
            clock.progress.close()
            raise Stopped(f"stopped after step {position.step} of {total}")
        started = time.monotonic()
        row = at_start | _step(run, phase, optimizer, position)
        done = position.step
        last = done == phase.last
        # Every line has a loss: the first step's carries what was held out before it,
        # and nothing else, unless it is the last step too.
        if evaluates and (last or (done % every == 0 and not at_start)):
            row |= method.evaluate(run)
            run.status.phase(method.status)
        at_start = {}
        if done % run.config.logging_steps == 0 or last or "eval_loss" in row:
            run.log.append(row)
        look_if_due(run, phase, done)
        clock.tell(phase, done, row, time.monotonic() - started)
        if _saves(run.config, done, saved_at) and not last:
            save_run(run, optimizer, position)
            saved_at = time.monotonic()
    save_run(run, optimizer, position)


def _saves(config: TrainingConfig, step: int, saved_at: float) -> bool:
    if config.save_steps is not None:
        return step % config.save_steps == 0
    return bool(from_main(time.monotonic() - saved_at >= SAVE_SECONDS))


def _step(
    run: Run, phase: Phase, optimizer: torch.optim.AdamW, position: Position
) -> dict[str, Any]:
    """One optimizer step over its pairs; advances `position`, returns its line."""
    started = time.monotonic()
    config, method = run.config, METHODS[phase.name]
    indexes = phase.step_pairs(position.step)
    rate = phase.rate_at(position.step, config)
    _seed(config.seed, position.step - phase.first)
    set_dropout(run.model, True)
    figures = method.backward(run, indexes)
    set_dropout(run.model, False)
    sum_gradients(run.parameters.values())
    merge(figures)
    clipped = torch.nn.utils.clip_grad_norm_(
        run.parameters.values(),
        math.inf if config.max_grad_norm is None else config.max_grad_norm,
    )
    norm = whole(clipped).item()
    _refuse_nan(run, phase, figures, norm, position.step + 1)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    refresh(run.model, run.parameters)
    seconds = time.monotonic() - started
    position.step += 1
    position.seconds += seconds
    position.num_tokens += sum(method.tokens(run.data.pairs[i]) for i in indexes)
    return {
        "step": position.step,
        "phase": phase.name,
        "epoch": phase.epochs_done(position.step),
        **figures.metrics(),
        "num_tokens": position.num_tokens,
        "grad_norm": norm,
        "learning_rate": rate,
        "pairs_per_second": round(len(indexes) / max(seconds, 1e-9), 3),
    }


def _seed(seed: int, step: int) -> None:
    """Dropout's random numbers depend on the step and the process alone, so nothing of
    them is in a checkpoint.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + rank()) % SEEDS)


def _refuse_nan(
    run: Run,
    phase: Phase,
    figures: AnyFigures,
    norm: float,
    step: int,
) -> None:
    if math.isfinite(figures.loss) and math.isfinite(norm):
        return
    raise TrainerError(not_finite_sentence(run, phase, figures, norm, step))

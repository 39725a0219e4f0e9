"""The training loop: steps, their lines in metrics.jsonl, checkpoints, stopping.

Everything a step depends on is in the config, the data or the checkpoint, so that a
run stopped and resumed writes the same metrics.jsonl as one left alone (bit for bit on
a CPU; `pairs_per_second` apart). Leaves out loading and the work after the last step;
see `run.py`.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.dpo.checkpoint import (
    drop_broken,
    find_resume_source,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from training.dpo.config import TrainingConfig
from training.dpo.errors import Stopped, TrainerError
from training.dpo.evaluate import evaluate_held_out
from training.dpo.metrics import Figures
from training.dpo.model import set_dropout
from training.dpo.optim import (
    learning_rate_at,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from training.dpo.progress import Progress
from training.dpo.run_state import Position, Run
from training.dpo.step import backward_step

SAVE_SECONDS = 60.0
"""Work lost at most to a kill when config.json gives no `save_steps`."""


def train(run: Run) -> Position:
    """Take the run from its newest checkpoint, or the start, to its last step.

    Raises Stopped after writing a checkpoint if a stop was asked for, TrainerError if
    the loss is no number any more or the disk is full.
    """
    optimizer = make_optimizer(run.parameters, run.config)
    torch.manual_seed(run.config.seed)
    position = _resume(run, optimizer)
    at_start: dict[str, float] = {}
    if position is None:
        position = Position()
        run.log.keep_until(-1)
    if position.step == 0 and run.held_out is not None:
        at_start = evaluate_held_out(run)
    total = run.schedule.total_steps
    progress = Progress("training", total, position.step)
    saved_at = started = time.monotonic()
    first = position.step
    run.status.phase("training", step=position.step, total_steps=total)
    while position.step < total:
        if run.stop.requested:
            _save(run, optimizer, position)
            progress.close()
            raise Stopped(f"stopped after step {position.step} of {total}")
        # Every line has a loss: the first step's carries what was held out before it.
        row = at_start | _step(run, optimizer, position)
        at_start = {}
        done = position.step
        if _evaluates(run.config, done) or done == total:
            row |= evaluate_held_out(run) if run.held_out is not None else {}
        if done % run.config.logging_steps == 0 or done == total or "eval_loss" in row:
            run.log.append(row)
        elapsed = time.monotonic() - started
        eta = round(elapsed / (done - first) * (total - done), 1)
        run.status.progress(phase="training", step=done, eta_seconds=eta)
        progress.reach(done, row)
        if _saves(run.config, done, saved_at) and done < total:
            _save(run, optimizer, position)
            saved_at = time.monotonic()
    progress.close()
    _save(run, optimizer, position)
    return position


def _evaluates(config: TrainingConfig, step: int) -> bool:
    return config.eval_steps is not None and step % config.eval_steps == 0


def _saves(config: TrainingConfig, step: int, saved_at: float) -> bool:
    if config.save_steps is not None:
        return step % config.save_steps == 0
    return time.monotonic() - saved_at >= SAVE_SECONDS


def _step(run: Run, optimizer: torch.optim.AdamW, position: Position) -> dict[str, Any]:
    """One optimizer step over its pairs; advances `position`, returns its line."""
    started = time.monotonic()
    config, total = run.config, run.schedule.total_steps
    indexes = run.schedule.step_pairs(position.step)
    rate = learning_rate_at(
        position.step,
        total,
        run.settled.learning_rate,
        config.warmup_ratio,
        config.lr_scheduler,
    )
    set_dropout(run.model, True)
    figures = backward_step(run, indexes)
    set_dropout(run.model, False)
    norm = torch.nn.utils.clip_grad_norm_(
        run.parameters.values(),
        math.inf if config.max_grad_norm is None else config.max_grad_norm,
    ).item()
    _refuse_nan(run, figures, norm, position.step + 1)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    seconds = time.monotonic() - started
    position.step += 1
    position.seconds += seconds
    position.num_tokens += sum(run.data.pairs[index].tokens for index in indexes)
    return {
        "step": position.step,
        "phase": "dpo",
        "epoch": position.step / run.schedule.steps_per_epoch,
        **figures.metrics(),
        "num_tokens": position.num_tokens,
        "grad_norm": norm,
        "learning_rate": rate,
        "pairs_per_second": round(len(indexes) / max(seconds, 1e-9), 3),
    }


def _refuse_nan(run: Run, figures: Figures, norm: float, step: int) -> None:
    if math.isfinite(figures.loss) and math.isfinite(norm):
        return
    what = "gradient" if math.isfinite(figures.loss) else "loss"
    shown = ", ".join(run.data.pairs[index].id for index in figures.indexes[:5])
    raise TrainerError(
        f"The {what} of step {step} is not a finite number (pairs {shown}); nothing of"
        f" that step was kept: lower learning_rate (now"
        f" {run.settled.learning_rate:g}) or look for odd pairs among these."
    )


def _save(run: Run, optimizer: torch.optim.AdamW, position: Position) -> None:
    run.log.sync()
    tensors: dict[str, Tensor] = {
        f"weights.{name}": parameter.detach()
        for name, parameter in run.parameters.items()
    }
    tensors |= optimizer_tensors(optimizer, run.parameters)
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    state = {
        "fingerprint": run.fingerprint,
        "num_tokens": position.num_tokens,
        "seconds": position.seconds,
        "threads": torch.get_num_threads(),
        "max_tokens": run.engine.layout.max_tokens,
    }
    save_checkpoint(run.folder / "checkpoints", position.step, tensors, state)


def _resume(run: Run, optimizer: torch.optim.AdamW) -> Position | None:
    """Load the newest checkpoint of this folder, or of `resume_from`, if there is one."""
    drop_broken(run.folder / "checkpoints")
    source = resume_source(run.folder, run.config)
    if source is None:
        return None
    tensors, state = load_checkpoint(source)
    if state["fingerprint"] != run.fingerprint:
        raise TrainerError(
            f"The checkpoint {source.name} belongs to another config, other pairs or"
            " another model; use a fresh run folder or restore its config.json."
        )
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
    restore_optimizer(optimizer, run.parameters, tensors)
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    elsewhere = source.parent.parent / "metrics.jsonl"
    own = source.parent == run.folder / "checkpoints"
    run.log.keep_until(state["step"], None if own else elsewhere)
    return Position(state["step"], state["num_tokens"], state["seconds"])


def resume_source(folder: Path, config: TrainingConfig) -> Path | None:
    """The checkpoint to go on from: the folder's own newest, else `resume_from`'s."""
    own = newest_checkpoint(folder / "checkpoints")
    if own is not None or config.resume_from is None:
        return own
    return find_resume_source(Path(config.resume_from))

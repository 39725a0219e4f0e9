"""Why a step whose loss or gradient is no finite number ends a run, in one sentence.

Leaves out noticing it; see `train.py`.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from training.dpo.checkpoint import newest_checkpoint
from training.dpo.phases import SFT, Phase
from training.dpo.run_state import Run

SHOWN = 5
"""Pairs named."""

TOKEN_MOVED = 5.0
"""A mean log-ratio per token, in nats, of this size either way says that the weights
have run away: no token of an answer is what it was by a factor of 150."""


class StepFigures(Protocol):
    """What a phase's figures have in common."""

    indexes: list[int]

    @property
    def loss(self) -> float: ...

    @property
    def pair_losses(self) -> Sequence[float]: ...

    @property
    def pair_drifts(self) -> Sequence[float]: ...


def not_finite_sentence(
    run: Run, phase: Phase, figures: StepFigures, norm: float, step: int
) -> str:
    """What is not finite, in which pairs, how far weights had moved and what to try."""
    what = "gradient" if math.isfinite(figures.loss) else "loss"
    pairs = [run.data.pairs[index] for index in figures.indexes]
    odd = [
        pair
        for pair, loss in zip(pairs, figures.pair_losses, strict=True)
        if not math.isfinite(loss)
    ]
    shown = ", ".join(f"{p.id} (line {p.line})" for p in (odd or pairs)[:SHOWN])
    key = "sft_learning_rate" if phase.name == SFT else "learning_rate"
    rate = phase.rate_at(step - 1, run.config)
    kept = newest_checkpoint(run.folder / "checkpoints")
    again = "it begins again"
    if kept is not None:
        again = f"it goes on from step {int(kept.name.removeprefix('step-'))}"
    return (
        f"The {what} of step {step} is not a finite number; nothing of that step was"
        f" kept. Pairs: {shown}; learning rate of the step {rate:.3g}, gradient norm"
        f" {norm:.3g}, {_moved(figures)}. Lower {key} (now"
        f" {phase.learning_rate:g}), say to a third, and start the same command again:"
        f" {again}; if that fails too, take a fresh run folder, float32 as dtype, or"
        " these pairs out."
    )


def _moved(figures: StepFigures) -> str:
    finite = [abs(drift) for drift in figures.pair_drifts if math.isfinite(drift)]
    if not finite:
        return "no log-ratio to the base is finite: the weights have run away"
    told = f"largest |log-ratio| to the base {max(finite):.3g} per token"
    if max(finite) < TOKEN_MOVED:
        return f"{told}: the weights had not moved far, so look at these pairs first"
    return f"{told}: the weights have run away"

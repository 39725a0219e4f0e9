"""A run's checkpoints: what goes into one, and how a run goes on from it.

Leaves out how a checkpoint gets onto the disk whole; see `checkpoint.py`.
"""

from dataclasses import dataclass
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
from training.dpo.distributed import from_main, is_main
from training.dpo.errors import TrainerError
from training.dpo.full import set_weights
from training.dpo.optim import optimizer_tensors, restore_optimizer
from training.dpo.phases import DPO, SFT
from training.dpo.run_state import Position, Run
from training.dpo.scored import bring_held_out
from training.dpo.sharding import gathered_on_main

RATE_KEYS = {SFT: "sft_learning_rate", DPO: "learning_rate"}
"""The config key of a phase's rate."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, read."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    @property
    def position(self) -> Position:
        """Where the run stood."""
        state = self.state
        return Position(state["step"], state["num_tokens"], state["seconds"])

    def restore_weights(self, run: Run) -> None:
        """Put the weights that train back."""
        weights = {name: self.tensors[f"weights.{name}"] for name in run.parameters}
        set_weights(run.model, run.parameters, weights)

    def restore_optimizer(self, run: Run, optimizer: torch.optim.AdamW) -> None:
        """Put the optimizer's state back."""
        restore_optimizer(optimizer, run.parameters, self.tensors)


def save_run(run: Run, optimizer: torch.optim.AdamW, position: Position) -> None:
    """Write a checkpoint of the run as it stands. Raises TrainerError.

    Process 0 writes all of it, sharded or not, so that any number of processes can go
    on from it; the others wait for that.
    """
    run.log.sync()
    tensors: dict[str, Tensor] = {
        f"weights.{name}": parameter.detach()
        for name, parameter in run.parameters.items()
    }
    tensors |= optimizer_tensors(optimizer, run.parameters)
    tensors = gathered_on_main(tensors)
    state = {
        "fingerprint": run.fingerprint,
        "rendered_at": run.rendered_at,
        "num_tokens": position.num_tokens,
        "seconds": position.seconds,
        "threads": torch.get_num_threads(),
        "max_tokens": run.engine.layout.max_tokens,
        "lanes": run.engine.layout.lanes,
        "after_sft": run.after_sft,
        "started_with": run.started_with,
        "trained_with": _rates(run),
    }
    if is_main():
        save_checkpoint(run.folder / "checkpoints", position.step, tensors, state)
    from_main(None)


def open_checkpoint(run: Run) -> Checkpoint | None:
    """Read the checkpoint that the run goes on from, if there is one.

    metrics.jsonl is trimmed to it. Raises TrainerError if it is another run's.
    """
    if is_main():
        drop_broken(run.folder / "checkpoints")
    source = run.source
    if source is None:
        run.log.keep_until(-1)
        return None
    tensors, state = load_checkpoint(source)
    _refuse_another_run(source.name, state["fingerprint"], run.fingerprint)
    _refuse_a_rate_too_late(run, state)
    elsewhere = source.parent.parent / "metrics.jsonl"
    own = source.parent == run.folder / "checkpoints"
    run.log.keep_until(state["step"], None if own else elsewhere)
    if not own:
        bring_held_out(elsewhere.parent, run.folder)
    run.started_with |= state.get("started_with", {})
    return Checkpoint(tensors, state)


def _refuse_another_run(
    name: str, told: dict[str, str] | str, wanted: dict[str, str]
) -> None:
    if isinstance(told, str):
        raise TrainerError(
            f"The checkpoint {name} was written by an earlier version of the trainer;"
            " use a fresh run folder, or start a new round."
        )
    differs = [key for key in wanted | told if told.get(key) != wanted.get(key)]
    if differs:
        raise TrainerError(
            f"The checkpoint {name} belongs to another config, other pairs or another"
            f" model. What differs: {', '.join(differs)}. Use a fresh run folder or put"
            " that back as it was."
        )


def _rates(run: Run) -> dict[str, float | None]:
    """{config key: its value}, of those that say how far a step goes."""
    rates: dict[str, float | None] = {
        RATE_KEYS[phase.name]: phase.learning_rate for phase in run.phases
    }
    return rates | {"max_grad_norm": run.config.max_grad_norm}


def _refuse_a_rate_too_late(run: Run, state: dict[str, Any]) -> None:
    """Once its steps are done, another rate would train nothing, and summary.json would
    tell it as the one that did.
    """
    last = {RATE_KEYS[phase.name]: phase.last for phase in run.phases}
    trained_with = state.get("trained_with", {})  # earlier versions kept none
    for key, now in _rates(run).items():
        then = trained_with.get(key, now)
        if now != then and state["step"] >= last.get(key, run.total_steps):
            raise TrainerError(
                f'config.json: "{key}" is now {_told(now)}, but its steps are done, with'
                f" {_told(then)}. Use a fresh run folder to train with another, or put"
                " that back as it was."
            )


def _told(rate: float | None) -> str:
    return "null" if rate is None else f"{rate:g}"


def resume_source(folder: Path, config: TrainingConfig) -> Path | None:
    """The checkpoint to go on from: the folder's own newest, else `resume_from`'s."""
    found: Path | None = from_main(
        _resume_source(folder, config) if is_main() else None
    )
    return found


def _resume_source(folder: Path, config: TrainingConfig) -> Path | None:
    own = newest_checkpoint(folder / "checkpoints")
    if own is not None or config.resume_from is None:
        return own
    return find_resume_source(Path(config.resume_from))

"""TRL's own trainers on the rows, order, batches and weights of a run of ours.

One dictionary of our config keys makes both: `trl_config` translates it, `watched` makes
a TRL trainer note what each step began with and came to, and `our_step` does the same
step here from the same weights. Float32 on a CPU, one process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.training.dpo.runs import write_run
from training.dpo.config import load_config
from training.dpo.metrics import Figures
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.run_state import Run
from training.dpo.status import StatusFile
from training.dpo.step import backward_step

SAME = {
    "learning_rate": 1e-3,
    "epochs": 1,
    "batch_size": 4,
    "max_length": 60,
    "warmup_ratio": 0.0,
    "lr_scheduler": "linear",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "seed": 42,
    "loss": "sigmoid",
    "beta": 0.1,
}
"""Our keys that TRL must be told, and what both take unless a test says otherwise."""

NAMES = {
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    # below 1: a share of the steps
    "warmup_ratio": "warmup_steps",
    "lr_scheduler": "lr_scheduler_type",
}
"""TRL's names of those that it calls otherwise."""

STEP_KEYS = {
    *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins"),
    *("rewards/accuracies", "logps/chosen", "logps/rejected", "logits/chosen"),
    *("logits/rejected", "entropy", "mean_token_accuracy"),
}
"""What both say of a step's pairs under given weights."""

RUN_KEYS = STEP_KEYS | {"num_tokens", "grad_norm", "learning_rate", "epoch"}
"""All that TRL logs of a step."""

EXACT = {"num_tokens", "learning_rate", "epoch"}
"""Of these nothing depends on a weight."""


@dataclass
class Pass:
    """One forward and backward pass of TRL's, chosen rows first, then rejected.

    `gradients`: all that has gathered since the optimizer's last step, before clipping.
    `policy`, `reference`: (2B,) summed log-probs of the answers.
    """

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)
    policy: Tensor | None = None
    reference: Tensor | None = None


def watched(trainer_class: type) -> type:
    """A subclass of a TRL trainer that keeps a `Pass` of each training_step in `passes`."""

    class Watched(trainer_class):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Tensor:
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            noted = Pass({n: p.detach().clone() for n, p in trained.items()})
            self.__dict__.setdefault("passes", []).append(noted)

            def note(module: Any, inputs: Any, output: Any) -> None:
                if getattr(output, "log_probs", None) is not None:
                    sums = output.log_probs.detach().sum(dim=1)
                    if torch.is_grad_enabled():
                        noted.policy = sums
                    else:
                        noted.reference = sums

            models = [model, getattr(self, "ref_model", None)]
            hooks = [m.register_forward_hook(note) for m in models if m is not None]
            loss = super().training_step(model, *args, **kwargs)
            for hook in hooks:
                hook.remove()
            noted.gradients = {n: p.grad.clone() for n, p in trained.items()}
            return loss

    return Watched


def trl_config(folder: Path, config_class: type = DPOConfig, **config: Any) -> Any:
    """TRL's config with the meaning of ours; keys of TRL's alone go in `trl`."""
    values = SAME | config
    values.pop("reference", None)
    extra = values.pop("trl", {})
    loss = values.pop("loss")
    if config_class is DPOConfig:
        weights = loss if isinstance(loss, dict) else {loss: 1.0}
        values |= {"loss_type": list(weights), "loss_weights": list(weights.values())}
    if values["lr_scheduler"] == "constant" and values["warmup_ratio"]:
        values["lr_scheduler"] = "constant_with_warmup"
    if values["max_grad_norm"] is None:
        values["max_grad_norm"] = 0
    values = {NAMES.get(key, key): value for key, value in values.items()}
    quiet = {
        "output_dir": str(folder),
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return config_class(**(quiet | values | extra))


def with_adapter(base: Path, adapter: Path) -> Any:
    """The base with the adapter to train, as TRL is given it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)


def trl_dpo(
    base: Path,
    adapter: Path,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    held_out: Sequence[dict[str, Any]] | None = None,
    **config: Any,
) -> Any:
    """A watched DPOTrainer, not yet trained.

    Measures against the base, or with reference "start" against a copy of the adapter.
    """
    against_base = config.get("reference", "base") == "base"
    return watched(DPOTrainer)(
        model=with_adapter(base, adapter),
        ref_model=(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            if against_base
            else None
        ),
        args=trl_config(folder, **config),
        train_dataset=Dataset.from_list(list(rows)),
        eval_dataset=Dataset.from_list(list(held_out)) if held_out else None,
        processing_class=AutoTokenizer.from_pretrained(base),
    )


def logged(trainer: Any, key: str = "loss") -> list[dict[str, Any]]:
    """The steps' lines of a TRL trainer (with `eval_loss`: its evaluations')."""
    return [row for row in trainer.state.log_history if key in row]


def our_run(
    base: Path,
    adapter: Path | None,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    held_out: Sequence[dict[str, Any]] | None = None,
    **config: Any,
) -> Run:
    """The same run here, prepared: its reference is taken, nothing is trained yet."""
    config = {"reference": "base", "shuffle": False, "dtype": "float32"} | config
    config.pop("trl", None)
    if adapter is not None:
        config = {"lora": {}} | config | {"parent_adapter": str(adapter)}
    run = write_run(folder, base, list(rows), held_out, **(SAME | config))
    loaded = load_config(run / "config.json")
    return prepare(run, loaded, StopFlag(), StatusFile(run)).run


@dataclass
class OurStep:
    """A step of ours: its figures (in `figures.indexes`' order) and gradients."""

    figures: Figures
    gradients: dict[str, Tensor]

    def in_order(self, values: Sequence[float], indexes: Sequence[int]) -> Tensor:
        """The figures' `values`, one a pair, in the order of `indexes`."""
        places = {index: place for place, index in enumerate(self.figures.indexes)}
        return torch.tensor([values[places[index]] for index in indexes])


def our_step(
    run: Run, indexes: Sequence[int], weights: Mapping[str, Tensor]
) -> OurStep:
    """Forward and backward of one step of ours from given adapter weights."""
    assert set(weights) == set(run.parameters)
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(weights[name])
            parameter.grad = None
    figures = backward_step(run, list(indexes))
    gradients = {}
    for name, parameter in run.parameters.items():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad.clone()
    return OurStep(figures, gradients)


def apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest ‖ours − theirs‖ / ‖theirs‖ over the adapter's weights."""
    assert set(ours) == set(theirs)
    # An expert or a bias that no token reached has a gradient of 0 on both sides.
    return max(
        ((ours[name] - other).norm() / other.norm().clamp_min(1e-12)).item()
        for name, other in theirs.items()
    )


def assert_same_metrics(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    keys: set[str],
    beta: float = 0.1,
    looser: float = 1.0,
    prefix: str = "",
) -> None:
    """Rewards, and a loss made of them, are small differences of large sums: they may
    differ by beta · 1e-6 · |logp| for each answer in them; the rest by 1e-5 of itself."""
    sums = abs(ours[f"{prefix}logps/chosen"]) + abs(ours[f"{prefix}logps/rejected"])
    for key in sorted(keys):
        mine, other = ours[prefix + key], theirs[prefix + key]
        allowed = looser * (1e-6 + 1e-5 * abs(other))
        if key.startswith("rewards/") or key == "loss":
            allowed = looser * beta * 1e-6 * sums
        elif key in EXACT:
            allowed = 1e-12 * abs(other)
        assert abs(mine - other) <= allowed, (prefix + key, mine, other)


def assert_same_steps(trainer: Any, run: Run) -> None:
    """Each step of a trained TRL trainer against ours from the weights it began with.

    Log-probs of each answer (1e-5 relative), all metrics, gradients (1e-4 by norm). One
    micro-batch a step on TRL's side.
    """
    lines, (phase,), tokens = logged(trainer), run.phases, 0
    assert len(trainer.passes) == len(lines) == run.total_steps
    for step, (theirs, line) in enumerate(zip(trainer.passes, lines, strict=True)):
        indexes = phase.step_pairs(step)
        ours = our_step(run, indexes, theirs.weights)
        figures = ours.figures
        policy = [
            ours.in_order(figures.chosen_logps, indexes),
            ours.in_order(figures.rejected_logps, indexes),
        ]
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(torch.cat(policy), theirs.policy, **close)
        if theirs.reference is not None:
            known = [run.data.reference.chosen, run.data.reference.rejected]
            reference = torch.cat([values[indexes] for values in known])
            torch.testing.assert_close(reference, theirs.reference, **close)
        tokens += sum(run.data.pairs[index].tokens for index in indexes)
        told = figures.metrics() | {
            "num_tokens": tokens,
            "grad_norm": sum(g.norm() ** 2 for g in ours.gradients.values()) ** 0.5,
            "learning_rate": phase.rate_at(step, run.config),
            "epoch": phase.epochs_done(step + 1),
        }
        assert set(line) - {"step", "aux_loss"} == RUN_KEYS
        assert_same_metrics(told, line, RUN_KEYS, run.objective.settings.beta)
        assert apart(ours.gradients, theirs.gradients) <= 1e-4, step

"""AdamW on the adapter's weights and its learning rate, as transformers' Trainer has them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from training.dpo.config import TrainingConfig
from training.dpo.sharding import part_like


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], config: TrainingConfig
) -> torch.optim.AdamW:
    """AdamW (https://arxiv.org/abs/1711.05101), betas 0.9 and 0.999, eps 1e-8."""
    values = list(parameters.values())
    return torch.optim.AdamW(
        values, lr=0.0, weight_decay=config.weight_decay, fused=True
    )


def learning_rate_at(
    step: int, total: int, peak: float, warmup_ratio: float, scheduler: str
) -> float:
    """The rate of a step counted from 0.

    Rises from 0 over ceil(total · warmup_ratio) steps, then by `scheduler`. A phase of
    one step has no warm-up: transformers' rate of 0 would train nothing.
    """
    warmup = math.ceil(total * warmup_ratio) if total > 1 else 0
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if scheduler == "linear":
        return peak * max(0.0, 1 - progress)
    if scheduler == "cosine":
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
    return peak


def optimizer_tensors(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    """AdamW's state under flat names, for a checkpoint."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.AdamW,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put `optimizer_tensors` back; parameters without state start afresh."""
    for name, parameter in parameters.items():
        state = {
            # fused AdamW wants its step counter on the parameter's device
            key: (
                value.to(parameter.device).clone()
                if key == "step"
                else part_like(parameter, value).clone()
            )
            for key in ("step", "exp_avg", "exp_avg_sq")
            if (value := tensors.get(f"optimizer.{name}.{key}")) is not None
        }
        if state:
            optimizer.state[parameter] = state

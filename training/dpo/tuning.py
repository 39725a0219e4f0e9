"""The model of a run as config.json's `tuning` and `sharding` ask for it.

Leaves out how each kind works; see `adapter.py`, `full.py`, `sharding.py`.
"""

from typing import Any

import torch

from training.dpo.adapter import adapter_parameters, attach_adapter
from training.dpo.base import load_4bit_base, load_base
from training.dpo.config import TrainingConfig
from training.dpo.distributed import world_size
from training.dpo.full import master_weights
from training.dpo.sharding import shard

FITS = 0.6
"""Share of a GPU's memory that a base may take before "auto" shards it."""

Weights = dict[str, torch.nn.Parameter]


def open_base(config: TrainingConfig, device: torch.device) -> Any:
    """The frozen base; on the CPU if it is going to be sharded. Raises TrainerError."""
    if config.tuning == "qlora":
        return load_4bit_base(config.base_model, config.dtype, device)
    several = world_size() > 1
    base = load_base(config.base_model, config.dtype, device, keep_on_cpu=several)
    if several and not is_to_shard(base, config, device):
        base.to(device)
    return base


def is_to_shard(base: Any, config: TrainingConfig, device: torch.device) -> bool:
    """Whether the run's weights are split over its processes."""
    if world_size() == 1 or config.tuning == "qlora":
        return False
    if config.sharding != "auto":
        return config.sharding == "full"
    if config.tuning == "full":
        return True
    size = sum(p.numel() * p.element_size() for p in base.parameters())
    memory = (
        torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else size / FITS
    )
    return size > FITS * memory


def make_trainable(
    base: Any, config: TrainingConfig, device: torch.device
) -> tuple[Any, Weights]:
    """(the model, what of it trains) from an `open_base`. Raises TrainerError."""
    shards, dtype = is_to_shard(base, config, device), base.dtype
    if config.tuning != "full":
        model = attach_adapter(base, config)
        weights = adapter_parameters(model)
        for weight in weights.values():
            weight.data = weight.data.to(device)
        if shards:
            shard(base, weights.values(), dtype, device.type)
        return model, weights
    if not shards:
        return base, master_weights(base)
    base.float().requires_grad_(True)
    shard(base, [], dtype, device.type)
    return base, dict(base.named_parameters())

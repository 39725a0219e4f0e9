"""Weights split over the processes (FSDP2): for bases and full fine-tuning too large for
one device.

Each decoder layer is gathered when its turn comes, in the forward and again in the
backward pass, and given back after; embeddings, last norm and head stay gathered from
the forward to the backward pass. Adapters stay whole on every process. Leaves out
tensor and pipeline parallelism.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from training.dpo.distributed import is_main, world_size
from training.dpo.errors import TrainerError

Result = TypeVar("Result")


def shard(
    model: Any, kept: Iterable[torch.nn.Parameter], dtype: torch.dtype, device: str
) -> None:
    """Split the weights of a transformers causal LM, but for those in `kept`.

    Passes run in `dtype`; gradients are summed over the processes in float32. Passes
    go through `run`, and every process must make as many. Raises TrainerError for a model
    whose decoder layers are not found.
    """
    layers = decoder_layers(model)
    mesh = init_device_mesh(device, (world_size(),))
    settings: dict[str, Any] = {
        "mesh": mesh,
        "ignored_params": set(kept),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
    }
    for layer in layers:
        fully_shard(layer, **settings)
    fully_shard(model, **settings)
    model.pass_dtype = dtype
    model.run_gathered = MethodType(_run, model)
    register_fsdp_forward_method(model, "run_gathered")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # A step's loss is divided by the weight of all its pairs already. gloo
            # knows no reduction but the plain sum.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def backbone(model: Any) -> Any:
    """A transformers causal LM without its head: what gives the hidden states.

    Llama 4's `base_model_prefix` names no attribute, and `base_model` is then the model
    itself, head and all.
    """
    return model.model if model.base_model is model else model.base_model


def decoder_layers(model: Any) -> Sequence[torch.nn.Module]:
    """The layers of a transformers causal LM's backbone."""
    body = backbone(model)
    layers = getattr(body, "layers", None) or getattr(body, "h", None)
    if not isinstance(layers, torch.nn.ModuleList):
        raise TrainerError(
            f'config.json: "sharding": the layers of {type(model).__name__} are not'
            ' found; set it to "none".'
        )
    return list(layers)


def _run(model: Any, function: Callable[[Any], Any]) -> Any:
    return function(model)


def run(
    model: Any, function: Callable[[Any], tuple[Tensor, Result]]
) -> tuple[Tensor, Result]:
    """`function(model)` with the weights outside the layers gathered.

    Its first result carries the gradients that lead back into the model.
    """
    result: tuple[Tensor, Result] = model.run_gathered(function)
    if not torch.is_grad_enabled():
        # No backward pass will give them back, and kept they would miss the next step.
        model.reshard()
    return result


def pass_dtype(model: Any) -> torch.dtype:
    """The dtype that a transformers model computes in."""
    dtype: torch.dtype = getattr(model, "pass_dtype", model.dtype)
    return dtype


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` was applied."""
    return isinstance(model, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; every process must take part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_on_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors in process 0's own memory, one after the other; {} elsewhere.

    Every process must take part.
    """
    result = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if is_main():
            result[name] = full.cpu()
    return result


def part_like(target: Tensor, value: Tensor) -> Tensor:
    """Of a whole tensor the part that `target` holds on this process, as its kind."""
    value = value.to(target.device)
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(
        value, target.device_mesh, target.placements, src_data_rank=None
    )

"""Full fine-tuning: every weight trains, and a model folder is written.

Weights, optimizer and checkpoint are float32. Where passes run in bfloat16 on one
device, the model holds bfloat16 copies: gradients are added up on the float32 weights,
and each step's result is rounded into the copies. Sharded, FSDP2 does the same. Leaves
out which device holds what; see `sharding.py`.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.dpo.distributed import is_main
from training.dpo.files import fsync_path, sha256_of_file
from training.dpo.sharding import gathered_on_main, part_like


def master_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """{name: float32 weight} of what trains: the model's own, or of a 16-bit one copies.

    Whatever backward pass gives the model's weights as gradient is added to that of the
    copies. After each change `refresh` must be called.
    """
    masters = {}
    for name, weight in model.named_parameters():
        weight.requires_grad_(True)
        master = weight
        if weight.dtype != torch.float32:
            master = torch.nn.Parameter(weight.detach().float())
            weight.register_post_accumulate_grad_hook(_adder(master))
        masters[name] = master
    return masters


def _adder(master: torch.nn.Parameter) -> Any:
    def add(weight: torch.nn.Parameter) -> None:
        assert weight.grad is not None
        if master.grad is None:
            master.grad = weight.grad.float()
        else:
            master.grad += weight.grad
        weight.grad = None

    return add


@torch.no_grad()
def set_weights(
    model: Any, masters: Mapping[str, torch.nn.Parameter], weights: Mapping[str, Tensor]
) -> None:
    """Copy whole `weights` into those that train."""
    for name, master in masters.items():
        master.copy_(part_like(master, weights[name]))
    refresh(model, masters)


@torch.no_grad()
def refresh(model: Any, masters: Mapping[str, torch.nn.Parameter]) -> None:
    """Round the float32 weights into the model's, where those are copies."""
    for name, master in masters.items():
        weight = model.get_parameter(name)
        if weight is not master:
            weight.copy_(master)


def save_model(
    model: Any, dtype: torch.dtype, tokenizer: Any, folder: Path
) -> dict[str, str]:
    """Write a transformers folder in one rename; {file name: sha256} of what it holds.

    The weights are saved in `dtype`, in which the run computed. Every process must take
    part; process 0 writes, the others get {}.
    """
    weights = gathered_on_main(dict(model.named_parameters()))
    if not is_main():
        return {}
    temporary = folder.with_name(f"tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.config.dtype = dtype
    model.save_pretrained(
        temporary, state_dict={n: w.to(dtype) for n, w in weights.items()}
    )
    tokenizer.save_pretrained(temporary)
    paths = sorted(path for path in temporary.rglob("*") if path.is_file())
    for path in [*paths, temporary]:
        fsync_path(path)
    hashes = {str(p.relative_to(temporary)): sha256_of_file(p) for p in paths}
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    fsync_path(folder.parent)
    return hashes

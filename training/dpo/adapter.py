"""The LoRA that trains: put on the base, switched off, saved.

Leaves out the base itself (`base.py`) and what a parent adapter must be
(`parent_adapter.py`).
"""

import difflib
import hashlib
import json
import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from training.dpo.config import FRESH_RANK, SEEDS, LoraConfig, TrainingConfig
from training.dpo.errors import TrainerError
from training.dpo.files import fsync_path
from training.dpo.parent_adapter import ADAPTER_FILES, load_parent
from training.dpo.progress import say

STATE_SPACE = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
"""Model types whose `out_proj` is read past its adapter: PEFT refuses one on it."""


def attach_adapter(model: Any, config: TrainingConfig) -> Any:
    """Wrap `model` with the parent adapter, or a fresh one that changes nothing yet.

    The adapter's weights are float32 and trainable, everything else frozen. A fresh
    adapter's A is drawn from `config.seed`. Raises TrainerError.
    """
    if config.parent_adapter is None:
        wrapped = _fresh_adapter(model, config)
    else:
        wrapped = load_parent(
            model, config.parent_adapter, config.lora, _meant(model, config.lora)
        )
    for parameter in adapter_parameters(wrapped).values():
        parameter.data = parameter.data.float()
    if not adapter_parameters(wrapped):
        raise TrainerError(
            "The adapter has no trainable weights; check target_modules."
        )
    if isinstance(model.get_output_embeddings(), LoraLayer):
        raise TrainerError(
            "The adapter would change the model's head, which is read directly: leave it"
            " out of target_modules, or start from another adapter."
        )
    return wrapped.eval()


def _fresh_adapter(model: Any, config: TrainingConfig) -> Any:
    lora = config.lora
    r = lora.r or FRESH_RANK
    alpha = lora.alpha or 2 * r
    torch.manual_seed(config.seed % SEEDS)
    try:
        return peft.get_peft_model(
            model,
            peft.LoraConfig(
                task_type="CAUSAL_LM",
                r=r,
                # PEFT's annotation says int; it only ever divides by r.
                lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]
                lora_dropout=lora.dropout,
                target_modules=_module_names(model, lora.target_modules),
                bias="none",
            ),
        )
    except ValueError as error:
        raise TrainerError(
            f'config.json: "lora" does not fit the model: {shorten(str(error), 300)}'
        ) from error


def _meant(model: Any, lora: LoraConfig) -> set[str] | None:
    """Modules that config.json's `lora.target_modules` means; None: it is not given."""
    if lora.target_modules is None:
        return None
    ends = tuple(f".{name}" for name in _module_names(model, lora.target_modules))
    return {n for n, _ in model.named_modules() if f".{n}".endswith(ends)}


def _module_names(model: Any, wanted: str | list[str] | None) -> list[str]:
    """Last parts of module names, which every server that reads PEFT folders knows, of
    all linear layers but the head; or the wanted ones.
    """
    if isinstance(wanted, list):
        for name in wanted:
            _check_wanted(model, name)
        return wanted
    head = model.get_output_embeddings()
    names: set[str] = set()
    routers: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            last = name.rpartition(".")[2]
            (names if _is_a_product(module) else routers).add(last)
    if routers:
        say(
            f"The adapter leaves out {', '.join(sorted(routers))}: such layers do not"
            " give a row for a row, as routers don't."
        )
    unfit = {"out_proj"} if model.config.model_type in STATE_SPACE else set()
    return sorted(names - routers - unfit)


def _check_wanted(model: Any, name: str) -> None:
    """Raise TrainerError for a name of no linear layers: PEFT is content if any fits."""
    there = {known: module for known, module in model.named_modules() if known}
    meant = [m for known, m in there.items() if f".{known}".endswith(f".{name}")]
    if any(list(module.children()) for module in meant):
        raise TrainerError(
            f'config.json: "lora.target_modules" names "{name}", which holds'
            " other modules; name the linear layers in it."
        )
    linear = [layer for layer in meant if isinstance(layer, torch.nn.Linear)]
    if not all(map(_is_a_product, linear)):
        raise TrainerError(
            f'config.json: "lora.target_modules" names "{name}", whose layers'
            " give more than a row for a row, as routers do; leave it out."
        )
    if not meant:
        parts = {known.rpartition(".")[2] for known in there}
        near = difflib.get_close_matches(name, sorted(parts), n=1, cutoff=0.0)
        raise TrainerError(
            f'config.json: "lora.target_modules" names "{name}", which the model'
            f' has not; the nearest is "{near[0]}".'
        )


def _is_a_product(module: torch.nn.Module) -> bool:
    """Whether it gives one row for a row; routers of experts (Phi-3.5-MoE, Llama 4) are
    linear layers whose forward gives a tuple, which PEFT cannot add to.
    """
    # torch's own, bitsandbytes' and the like are; those of models are asked: Falcon's
    # have a forward of their own, too.
    if not type(module).__module__.startswith("transformers.models."):
        return True
    assert isinstance(module, torch.nn.Linear)
    row = torch.zeros_like(module.weight[:1])
    try:
        with torch.no_grad():
            found = module(row)
    # Whatever a forward of its own does with a row that it is not made for.
    except Exception:
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, module.out_features)


def without_adapter(model: Any) -> AbstractContextManager[Any]:
    """Within it `model` is the base: true of a full fine-tuned one before its first step
    only.
    """
    if isinstance(model, peft.PeftModel):
        return model.disable_adapter()  # type: ignore[no-any-return]
    return nullcontext()


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """{name: weight} of what trains, in a fixed order."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def adapter_scales(model: Any) -> list[tuple[str, float]]:
    """What each LoRA layer that is on multiplies its product by: (name, scale).

    A and B do not say it themselves, and two layers may have each other's.
    """
    return sorted(
        (name, scale)
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and not layer.disable_adapters
        for scale in layer.scaling.values()
    )


def set_dropout(model: Any, training: bool) -> None:
    """Switch the adapter's dropout; the base model's own stays off throughout."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout) and ".lora_dropout." in name:
            module.train(training)


def save_adapter(model: Any, folder: Path, base_model: str) -> dict[str, str]:
    """Write a PEFT folder in one rename; {file name: sha256} of what it holds.

    The weights are float32 and the files' bytes depend on weights and settings alone.
    """
    temporary = folder.with_name(f"tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {n: t.detach().float().cpu().contiguous() for n, t in state.items()}
    settings = model.peft_config["default"].to_dict()
    settings |= {"base_model_name_or_path": base_model, "inference_mode": True}
    settings = {key: _plain(value) for key, value in settings.items()}
    text = json.dumps(settings, indent=2, sort_keys=True)
    (temporary / ADAPTER_FILES[0]).write_text(text + "\n", encoding="utf-8")
    save_file(tensors, temporary / ADAPTER_FILES[1], metadata={"format": "pt"})
    for name in ADAPTER_FILES:
        fsync_path(temporary / name)
    fsync_path(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    fsync_path(folder.parent)
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ADAPTER_FILES
    }


def _plain(value: Any) -> Any:
    """Sets in a fixed order: PEFT's come in another one in every process."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)

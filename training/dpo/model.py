"""The base model with its adapter: loading, hashing, saving.

Leaves out full fine-tuning (`full.py`) and several devices (`sharding.py`).
"""

import difflib
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from training.dpo.config import FRESH_RANK, SEEDS, LoraConfig, TrainingConfig
from training.dpo.errors import TrainerError
from training.dpo.files import fsync_path
from training.dpo.progress import say
from training.dpo.sharding import whole

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

UNREADABLE = (OSError, ValueError, LookupError, TypeError, SafetensorError)
"""What transformers and PEFT raise over files that are torn, or hold something else."""

STATE_SPACE = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
"""Model types whose `out_proj` is read past its adapter: PEFT refuses one on it."""


def pick_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(base_model: str, now: datetime | None = None) -> Any:
    """The base model's tokenizer. Raises TrainerError.

    `now`: what its chat template takes for the time, where it prints one (as Llama
    3.1's does the date); None: the clock's.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(base_model)
    except UNREADABLE as error:
        raise TrainerError(_cannot_load("tokenizer", base_model, error)) from error
    if now is not None and "strftime_now" in str(tokenizer.chat_template):
        # A variable of the template goes before transformers' function of that name.
        tokenizer.apply_chat_template = partial(
            tokenizer.apply_chat_template, strftime_now=now.strftime
        )
    return tokenizer


def load_base(
    base_model: str, dtype: str, device: torch.device, keep_on_cpu: bool = False
) -> Any:
    """The base model, frozen, in evaluation mode, on `device`. Raises TrainerError."""
    known = dtype != "auto" or device.type == "cuda"
    # Read as it will be where that is known: two copies would be the peak, and a later
    # conversion would round the rotary frequencies too.
    first = pick_dtype(dtype, torch.float32, device) if known else "auto"
    model = _from_pretrained(base_model, dtype=first)
    if not known:
        model.to(pick_dtype(dtype, model.dtype, device))
    return model if keep_on_cpu else model.to(device)


def load_4bit_base(base_model: str, dtype: str, device: torch.device) -> Any:
    """`load_base` with the linear layers but the head in 4 bits.

    NF4 with double quantisation, as QLoRA has it (https://arxiv.org/abs/2305.14314,
    section 3); products are computed in `dtype`, bfloat16 unless float32 is asked for.
    Raises TrainerError where bitsandbytes is missing or cannot work.
    """
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        raise TrainerError(
            f'config.json: "tuning": "qlora" needs bitsandbytes ({error}); install it'
            ' (pip install bitsandbytes) or use "lora".'
        ) from error
    computed = torch.float32 if dtype == "float32" else torch.bfloat16
    model = _from_pretrained(
        base_model,
        dtype=computed,
        device_map={"": device},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=computed,
        ),
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # That repacks the weights for a kernel which gives no gradient to its
            # input: what lies before would train on nothing, and nobody be told.
            module.support_avx512bf16_for_cpu = False
    return model


def _from_pretrained(base_model: str, **settings: Any) -> Any:
    # Typed as if it gave the model alone.
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, loaded = load(base_model, output_loading_info=True, **settings)
    except UNREADABLE as error:
        raise TrainerError(_cannot_load("model", base_model, error)) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # out of memory, for instance
            raise
        raise TrainerError(
            f'The weights of base_model "{base_model}" have other shapes than its'
            " config.json says (transformers' report on stderr names them): take both"
            " from one model."
        ) from error
    # transformers goes on, with random ones in their place.
    if missing := sorted(loaded["missing_keys"]):
        raise TrainerError(
            f'The weights of base_model "{base_model}" lack {len(missing)} of those that'
            f" its config.json asks for, such as {missing[0]}: take both from one model."
        )
    model.requires_grad_(False)
    return model.eval()


def _cannot_load(what: str, base_model: str, error: Exception) -> str:
    looks_like_a_path = base_model.startswith(("/", "./", "../", "~"))
    if (looks_like_a_path or base_model.count("/") > 1) and not os.path.isdir(
        base_model
    ):
        return f'config.json: "base_model": there is no folder "{base_model}".'
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f'The {what} of base_model "{base_model}" could not be loaded ({first});'
        " give a model folder or a hub id."
    )


def pick_dtype(wanted: str, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """What config.json's `dtype` means for a checkpoint stored as `stored`."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if stored != torch.float32 and has_bf16 else torch.float32


def attach_adapter(model: Any, config: TrainingConfig) -> Any:
    """Wrap `model` with the parent adapter, or a fresh one that changes nothing yet.

    The adapter's weights are float32 and trainable, everything else frozen. A fresh
    adapter's A is drawn from `config.seed`. Raises TrainerError.
    """
    if config.parent_adapter is None:
        wrapped = _fresh_adapter(model, config)
    else:
        wrapped = _parent_adapter(model, config.parent_adapter, config.lora)
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


def _module_names(model: Any, wanted: str | list[str] | None) -> list[str]:
    """Last parts of module names, which every server that reads PEFT folders knows.

    Raises TrainerError for a wanted one that the model has not: PEFT is content if any
    of them fits.
    """
    if isinstance(wanted, list):
        there = {name: module for name, module in model.named_modules() if name}
        for name in wanted:
            meant = [there[known] for known in _named(there, [name])]
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


def _named(modules: Iterable[str], names: Iterable[str]) -> set[str]:
    """Of `modules`, those that PEFT takes `names` in target_modules to mean."""
    ends = tuple(f".{name}" for name in names)
    return {module for module in modules if f".{module}".endswith(ends)}


def _parent_adapter(model: Any, folder: str, lora: LoraConfig) -> Any:
    for name in ADAPTER_FILES:
        if not (Path(folder) / name).is_file():
            raise TrainerError(
                f'config.json: "parent_adapter" {folder} has no {name}; give a folder'
                " saved by PEFT as safetensors."
            )
    try:
        settings = peft.PeftConfig.from_pretrained(folder)
    except UNREADABLE as error:
        raise TrainerError(
            f'config.json: the adapter_config.json of "parent_adapter" {folder} cannot'
            f" be read ({shorten(str(error), 200)})."
        ) from error
    if not isinstance(settings, peft.LoraConfig):
        raise TrainerError(
            f'config.json: "parent_adapter" {folder} is no LoRA adapter.'
        )
    _refuse_unserved(settings, folder)
    if lora.r not in (None, settings.r):
        raise TrainerError(
            f'config.json: "lora.r" is {lora.r}, but the parent adapter has rank'
            f" {settings.r}; leave it out or start a fresh adapter."
        )
    if lora.alpha not in (None, settings.lora_alpha):
        raise TrainerError(
            f'config.json: "lora.alpha" is {lora.alpha}, but the parent adapter has'
            f" {settings.lora_alpha}; leave it out or start a fresh adapter."
        )
    wanted, meant = lora.target_modules, set()
    if wanted is not None:
        there = [name for name, _ in model.named_modules()]
        meant = _named(there, _module_names(model, wanted))
    settings.lora_dropout = lora.dropout
    settings.inference_mode = False
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            wrapped = peft.PeftModel.from_pretrained(
                model, folder, is_trainable=True, config=settings
            )
    except (RuntimeError, *UNREADABLE) as error:
        first = str(error).strip().splitlines()[0]
        raise TrainerError(
            f'config.json: "parent_adapter" {folder} does not fit the base model: {first}'
        ) from error
    # PEFT goes on, with fresh weights in their place.
    if any("missing adapter keys" in str(warning.message) for warning in said):
        raise TrainerError(
            f'config.json: "parent_adapter" {folder} lacks weights of layers that its'
            " adapter_config.json names: it is not whole, or of another model."
        )
    adapted = {
        n for n, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    if wanted is not None and meant != adapted:
        raise TrainerError(
            'config.json: "lora.target_modules" means other modules than the parent'
            " adapter has; leave it out or start a fresh adapter."
        )
    return wrapped


def _refuse_unserved(settings: peft.LoraConfig, folder: str) -> None:
    """Refuse kinds of adapter that would train or be served other than they say."""
    targets = settings.target_modules
    names = [targets] if isinstance(targets, str) else list(targets or ())
    for unfit, what in (
        (settings.modules_to_save, "whole modules (modules_to_save)"),
        (settings.use_dora, "DoRA"),
        (settings.bias != "none", "biases"),
        (any(name.endswith("lm_head") for name in names), "an adapter on lm_head"),
    ):
        if unfit:
            raise TrainerError(
                f'config.json: "parent_adapter" {folder} holds {what}, which is not in'
                " this version of the trainer."
            )


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


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = whole(tensors[name].detach()).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_model(model: Any) -> str:
    """sha256 of a model's weights and of the settings that shape its outputs."""
    settings = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "use_cache"):
        settings.pop(key, None)
    described = json.dumps(settings, sort_keys=True, default=str)
    # A 4-bit weight's scales are in the state only.
    quantized = getattr(model, "is_quantized", False)
    weights = hash_tensors(
        model.state_dict() if quantized else dict(model.named_parameters())
    )
    return hashlib.sha256((described + weights).encode()).hexdigest()


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

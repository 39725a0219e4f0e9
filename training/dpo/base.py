"""The base model and its tokenizer, from a folder or a hub id, in the dtype a run wants.

Leaves out the adapter on it (`adapter.py`) and what of it trains (`tuning.py`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    modeling_utils,
)

from training.dpo.errors import TrainerError

UNREADABLE = (OSError, ValueError, LookupError, TypeError, SafetensorError)
"""What transformers and PEFT raise over files that are torn, or hold something else."""


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
    with _unmapped_unless(first):
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


STORED = {torch.float32: "F32", torch.bfloat16: "BF16"}
"""How safetensors files name dtypes."""


@contextmanager
def _unmapped_unless(dtype: Any) -> Iterator[None]:
    """While it lasts, weights stored in another dtype are read one by one.

    transformers maps every file. Of weights that stay as they are that spares a copy; of
    those that are converted the file's pages would be held beside the outcome until all
    are: the most memory of a whole run in bfloat16 on a small model.
    """
    library: Any = modeling_utils
    opened = library.safe_open

    def open_file(path: Any, *given: Any, **named: Any) -> Any:
        with opened(path, framework="pt") as file:
            names = file.keys()
            stored = {file.get_slice(name).get_dtype() for name in names}
        if STORED[dtype] not in stored:
            named["backend"] = "pread"
        return opened(path, *given, **named)

    # "auto" converts nothing.
    library.safe_open = open_file if dtype in STORED else opened
    try:
        yield
    finally:
        library.safe_open = opened


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
        # By default torch counts what it emulates too: slow, and no kernel for FlexAttention.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    has_bf16 = (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if stored != torch.float32 and has_bf16 else torch.float32

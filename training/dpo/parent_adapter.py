"""The LoRA that a run goes on from: it must be whole, and one that servers serve as it is.

Leaves out fresh adapters; see `adapter.py`.
"""

import warnings
from collections.abc import Collection
from pathlib import Path
from textwrap import shorten
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer

from training.dpo.base import UNREADABLE
from training.dpo.config import LoraConfig
from training.dpo.errors import TrainerError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of `init_lora_weights` whose share is taken off the base when PEFT loads the
adapter: neither reference nor drift would be against the base as it is."""


def load_parent(
    model: Any, folder: str, lora: LoraConfig, meant: Collection[str] | None
) -> Any:
    """`model` with the adapter in `folder`, whose shape stays. Raises TrainerError.

    `meant`: the modules that `lora.target_modules` means, None where it says nothing;
    `lora` may only repeat what the adapter is.
    """
    settings = _read_settings(folder)
    _refuse_unserved(settings, folder)
    for name, wanted, own in (
        ("r", lora.r, settings.r),
        ("alpha", lora.alpha, settings.lora_alpha),
    ):
        if wanted not in (None, own):
            raise TrainerError(
                f'config.json: "lora.{name}" is {wanted}, but the parent adapter has'
                f" {own}; leave it out or start a fresh adapter."
            )
    settings.lora_dropout = lora.dropout
    settings.inference_mode = False
    wrapped = _wrapped(model, folder, settings)
    adapted = {
        name for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    if meant is not None and meant != adapted:
        raise TrainerError(
            'config.json: "lora.target_modules" means other modules than the parent'
            " adapter has; leave it out or start a fresh adapter."
        )
    return wrapped


def _read_settings(folder: str) -> peft.LoraConfig:
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
    return settings


def _wrapped(model: Any, folder: str, settings: peft.LoraConfig) -> Any:
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            wrapped = peft.PeftModel.from_pretrained(
                model, folder, is_trainable=True, config=settings
            )
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, *UNREADABLE) as error:
        lines = str(error).strip().splitlines()
        # torch's first line only announces those with the names and shapes.
        told = lines[1].strip() if lines[0].endswith(":") and lines[1:] else lines[0]
        raise TrainerError(
            f'config.json: "parent_adapter" {folder} does not fit the base model: {told}'
        ) from error
    # PEFT goes on, with fresh weights in their place.
    if any("missing adapter keys" in str(warning.message) for warning in said):
        raise TrainerError(
            f'config.json: "parent_adapter" {folder} lacks weights of layers that its'
            " adapter_config.json names: it is not whole, or of another model."
        )
    return wrapped


def _refuse_unserved(settings: peft.LoraConfig, folder: str) -> None:
    """Refuse kinds of adapter that would train or be served other than they say."""
    targets = settings.target_modules
    names = [targets] if isinstance(targets, str) else list(targets or ())
    start = settings.init_lora_weights
    for unfit, what in (
        (settings.modules_to_save, "whole modules (modules_to_save)"),
        (settings.use_dora, "DoRA"),
        (settings.bias != "none" or settings.lora_bias, "biases"),
        (settings.layer_replication, "repeated layers (layer_replication)"),
        (settings.trainable_token_indices, "embeddings (trainable_token_indices)"),
        # What PEFT then takes off the base's weights, no server does.
        (
            isinstance(start, str) and start.lower().startswith(CHANGE_THE_BASE),
            f"a start that changes the base's weights (init_lora_weights {start})",
        ),
        (any(name.endswith("lm_head") for name in names), "an adapter on lm_head"),
    ):
        if unfit:
            raise TrainerError(
                f'config.json: "parent_adapter" {folder} holds {what}, which is not in'
                " this version of the trainer."
            )

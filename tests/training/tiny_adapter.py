"""A base model of one layer and adapters for it, in files alone: no torch, no time."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, RANK = 8, 2
LAYER = "model.layers.0.self_attn.q_proj"


def write_base(folder: Path) -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "hidden_size": WIDTH, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {f"{LAYER}.weight": np.zeros((WIDTH, WIDTH), np.float32)}
    save_file(weights, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, base_model: str, salt: str) -> None:
    """Its weights, and so its hash, depend on `salt` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    value = hashlib.sha256(salt.encode()).digest()[0] / 256
    tensors = {
        f"base_model.model.{LAYER}.lora_A.weight": (RANK, WIDTH),
        f"base_model.model.{LAYER}.lora_B.weight": (WIDTH, RANK),
    }
    save_file(
        {name: np.full(shape, value, np.float32) for name, shape in tensors.items()},
        folder / "adapter_model.safetensors",
    )


def canary() -> dict:
    prompt = {"token_ids": [1, 2, 3], "logprobs": [-1, -2], "base_logprobs": [-2, -2]}
    return {"dtype": "float32", "tolerance": 1e-3, "prompts": [prompt]}

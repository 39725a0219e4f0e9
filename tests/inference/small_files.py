"""A base model and adapters of a few numbers, written without torch.

The base is one layer of width 4: q_proj 4x4, up_proj 6x4. A canary of one prompt says
-1.0 under the base and -0.5 under the policy for each of two tokens.
"""

import json

import numpy as np
from safetensors.numpy import save_file

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"
CANARY = {
    "dtype": "float32",
    "tolerance": 0.001,
    "prompts": [
        {
            "token_ids": [1, 2, 3],
            "logprobs": [-0.5, -0.5],
            "base_logprobs": [-1.0, -1.0],
        }
    ],
}


def write_base(folder, seed=0):
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    weights = {
        f"{Q}.weight": numbers.standard_normal((4, 4), dtype=np.float32),
        f"{UP}.weight": numbers.standard_normal((6, 4), dtype=np.float32),
        "model.norm.weight": np.ones(4, dtype=np.float32),
    }
    save_file(weights, folder / "model.safetensors")
    config = {"max_position_embeddings": 64, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_adapter(
    folder, base, *, rank=2, seed=1, tensors=None, canary=CANARY, **config
):
    """`tensors` {name: array or None} and `config` replace or remove (None) parts."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    weights = {}
    for module, outside, inside in ((Q, 4, 4), (UP, 6, 4)):
        for part, shape in (("A", (rank, inside)), ("B", (outside, rank))):
            name = f"base_model.model.{module}.lora_{part}.weight"
            weights[name] = numbers.standard_normal(shape, dtype=np.float32)
    weights |= tensors or {}
    save_file(
        {name: array for name, array in weights.items() if array is not None},
        folder / "adapter_model.safetensors",
    )
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "target_modules": ["q_proj", "up_proj"],
    }
    settings |= config
    settings = {name: value for name, value in settings.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    if canary is not None:
        (folder / "canary.json").write_text(json.dumps(canary))
    return folder

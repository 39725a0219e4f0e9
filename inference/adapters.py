"""Whether a folder holds a LoRA adapter that this base and vLLM can serve.

vLLM itself checks almost nothing: an adapter of another base or of half its width loads
with status 200 and answers garbage. Reads safetensors headers and float32 values with
numpy; never imports torch, never unpickles. What the adapter says is canary.py's.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.utils.translation import gettext as _
from safetensors import SafetensorError, safe_open

from inference.base import base_config, sha256_of, unreadable, weight_files
from inference.errors import AdapterRefused
from inference.faults import told

FILES = ("adapter_config.json", "adapter_model.safetensors", "canary.json")
"""All that a policy's folder holds."""
PICKLED = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """`sha256` is of FILES, names and contents."""

    rank: int
    sha256: str


def validate_adapter(
    folder: Path, base: Path, is_base: Callable[[str], bool], largest_rank: int
) -> Adapter:
    """Check an adapter of FILES against the base model's folder.

    `is_base` tells whether the adapter's own note of its base means this one. Raises
    AdapterRefused with the first thing that is wrong, InferenceError where it is the base.
    """
    for name in FILES:
        file = folder / name
        if file.is_symlink() or not file.is_file():
            raise AdapterRefused(_("%(file)s is missing.") % {"file": name})
    pickled = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLED)
    if pickled:
        raise AdapterRefused(
            _("%(file)s is a pickle, which can run code; only safetensors are taken.")
            % {"file": pickled[0]}
        )
    config = _config(folder / FILES[0])
    rank = _check_config(config, is_base, largest_rank)
    _check_tensors(folder / FILES[1], config, rank, base)
    return Adapter(rank, files_sha256(folder))


def files_sha256(folder: Path) -> str:
    """The hash that names a policy. Raises OSError if a file is missing."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(f"{name} {sha256_of(folder / name)}\n".encode())
    return digest.hexdigest()


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise AdapterRefused(
            _("adapter_config.json cannot be read: %(error)s") % {"error": told(error)}
        ) from error
    return config


def _check_config(
    config: dict[str, Any], is_base: Callable[[str], bool], largest_rank: int
) -> int:
    """The adapter's rank; refuses what vLLM cannot serve or would serve wrongly."""
    if config.get("peft_type") != "LORA":
        raise AdapterRefused(_("It is not a LoRA adapter of PEFT."))
    named = str(config.get("base_model_name_or_path") or "")
    if not is_base(named):
        raise AdapterRefused(
            _("It was trained on another base model (%(base)s).") % {"base": named}
        )
    rank = config.get("r")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise AdapterRefused(_("Its rank is missing from adapter_config.json."))
    if rank > largest_rank:
        raise AdapterRefused(
            _(
                "Its rank is %(rank)d; vLLM was started for at most %(most)d (VLLM_MAX_LORA_RANK)."
            )
            % {"rank": rank, "most": largest_rank}
        )
    for key in (
        "use_dora",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
        "lora_bias",
        "trainable_token_indices",
    ):
        if config.get(key):
            raise AdapterRefused(
                _("It uses %(key)s, which vLLM cannot serve.") % {"key": key}
            )
    if config.get("bias", "none") != "none":
        raise AdapterRefused(
            _("It uses %(key)s, which vLLM cannot serve.") % {"key": "bias"}
        )
    targets = config.get("target_modules")
    if not isinstance(targets, list | str) or not targets:
        raise AdapterRefused(_("Its target_modules are missing."))
    return rank


def _check_tensors(file: Path, config: dict[str, Any], rank: int, base: Path) -> None:
    """Each A is rank x in, each B out x rank, float32, finite; none too few or many."""
    shapes = _base_shapes(base)
    served = set(_modules_in_blocks(shapes))
    # Packed weights of a quantised base have shapes of their own.
    is_packed = "quantization_config" in base_config(base)
    parts: dict[str, set[str]] = {}
    try:
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                module, part = _module_and_part(key)
                outside = shapes.get(f"{module}.weight")
                if outside is None:
                    raise AdapterRefused(
                        _("%(tensor)s: the base model has no such module.")
                        % {"tensor": key}
                    )
                if served.isdisjoint(module.split(".")):
                    raise AdapterRefused(
                        _("%(module)s is no layer that vLLM adapts here (%(served)s).")
                        % {"module": module, "served": ", ".join(sorted(served))}
                    )
                piece = tensors.get_slice(key)
                found = tuple(piece.get_shape())
                wanted = (rank, outside[-1]) if part == "A" else (outside[0], rank)
                side = 0 if part == "A" else 1
                if found != wanted and not (is_packed and found[side] == rank):
                    raise AdapterRefused(
                        _("%(tensor)s has shape %(found)s; this base needs %(wanted)s.")
                        % {"tensor": key, "found": found, "wanted": wanted}
                    )
                if piece.get_dtype() != "F32":
                    raise AdapterRefused(
                        _("%(tensor)s is %(dtype)s; adapters are kept in float32.")
                        % {"tensor": key, "dtype": piece.get_dtype()}
                    )
                if not np.isfinite(tensors.get_tensor(key)).all():
                    raise AdapterRefused(
                        _("%(tensor)s holds values that are not finite.")
                        % {"tensor": key}
                    )
                parts.setdefault(module, set()).add(part)
    except (SafetensorError, OSError) as error:
        raise AdapterRefused(
            _("adapter_model.safetensors cannot be read: %(error)s")
            % {"error": told(error)}
        ) from error
    _check_complete(parts, config, shapes)


def _check_complete(
    parts: dict[str, set[str]],
    config: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    if not parts:
        raise AdapterRefused(_("adapter_model.safetensors holds no tensors."))
    half = sorted(module for module, found in parts.items() if found != {"A", "B"})
    if half:
        raise AdapterRefused(
            _("%(module)s has only half of its adapter.") % {"module": half[0]}
        )
    targets = config["target_modules"]
    if isinstance(targets, str) or config.get("layers_to_transform"):
        return
    for target in targets:
        wanted = {
            name.removesuffix(".weight")
            for name in shapes
            if name.endswith(f".{target}.weight") or name == f"{target}.weight"
        }
        missing = sorted(wanted - parts.keys())
        if missing or not wanted:
            raise AdapterRefused(
                _("The adapter of %(module)s is missing.")
                % {"module": missing[0] if missing else target}
            )


def _module_and_part(key: str) -> tuple[str, str]:
    """("model.layers.0.mlp.up_proj", "A") of PEFT's name for a tensor."""
    for part in ("A", "B"):
        ending = f".lora_{part}.weight"
        if key.startswith(PREFIX) and key.endswith(ending):
            return key.removeprefix(PREFIX).removesuffix(ending), part
    raise AdapterRefused(_("%(tensor)s is no part of a LoRA.") % {"tensor": key})


def lora_modules(base: Path) -> list[str]:
    """The linear layers inside the base's blocks, by the last part of their names.

    Without the head: it lies outside the blocks and no adapter of ours has it. Raises
    InferenceError for weights that cannot be read.
    """
    return _modules_in_blocks(_base_shapes(base))


def _modules_in_blocks(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    names = set()
    for key, shape in shapes.items():
        *path, kind = key.split(".")
        if kind == "weight" and len(shape) == 2 and any(map(str.isdigit, path)):
            # A mixture's router is no layer that vLLM can adapt; its experts are one.
            names.add("experts" if "experts" in path else path[-1])
    return sorted(names - {"gate", "router", "shared_expert_gate"})


def _base_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(base):
        try:
            with safe_open(file, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dict
                    shape = tuple(tensors.get_slice(key).get_shape())
                    if shape:
                        shapes[key] = shape
        except (SafetensorError, OSError) as error:
            raise unreadable(file, error) from error
    return shapes

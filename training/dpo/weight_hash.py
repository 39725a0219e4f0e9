"""Hashes of weights; a base model's is remembered by the stamps of its files.

Hashing takes half a second a gigabyte and more with a GPU's copy; files whose sizes and
times have not changed are not hashed again. An adapter, which is small, always is.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import cached_file

from training.dpo.files import write_json
from training.dpo.sharding import whole

KEPT = 64
"""Hashes remembered; the oldest goes."""

SETTLED_SECONDS = 3.0
"""Files written more recently may change once more within their time stamp."""

SUFFIXES = {".json", ".safetensors", ".bin"}


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


def remembered_hash(model: Any, base_model: str, memo: Path) -> str:
    """`hash_model(model)` of the model loaded from `base_model`, or from `memo`.

    `base_model`: folder or hub id; `memo`: a JSON file, made where absent.
    """
    stamp = _stamp(model, base_model)
    known = _read(memo)
    if stamp is None:
        return hash_model(model)
    if stamp not in known:
        known[stamp] = hash_model(model)
        newest = dict(list(known.items())[-KEPT:])
        with contextlib.suppress(OSError):  # it only saves time
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_json(memo, newest)
    return known[stamp]


def _stamp(model: Any, base_model: str) -> str | None:
    """What the loaded weights came from, or None where that cannot be told."""
    config = Path(base_model) / "config.json"
    if not config.is_file():
        try:
            found = cached_file(base_model, "config.json", local_files_only=True)
        except OSError:
            return None
        config = Path(str(found))
    files = sorted(p for p in config.parent.iterdir() if p.suffix in SUFFIXES)
    stats = [path.stat() for path in files]
    if max(s.st_mtime for s in stats) > time.time() - SETTLED_SECONDS:
        return None
    facts = [
        str(config.parent.resolve()),
        [(p.name, s.st_size, s.st_mtime_ns) for p, s in zip(files, stats, strict=True)],
        str(model.dtype),
        model.config.to_dict(),
        version("transformers"),
    ]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(memo: Path) -> dict[str, str]:
    try:
        known = json.loads(memo.read_text("utf-8"))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}

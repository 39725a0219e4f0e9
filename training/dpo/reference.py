"""Log-probs under weights that do not change: the reference, and the base for drift.

Taken once before the first step and kept in the run folder under a hash of what they
depend on. Leaves out the policy; see `train.py`.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.dpo.data import Pair
from training.dpo.files import fsync_path
from training.dpo.forward import Engine, score_set


@dataclass(frozen=True)
class FixedLogps:
    """Summed answer log-probs of every pair under weights that do not change.

    `chosen` and `rejected`: (pairs,) float32 on the CPU; those of a reference are
    summed as the loss sums the policy's (`ld_alpha`), those of the base plainly.
    """

    chosen: Tensor
    rejected: Tensor

    @classmethod
    def none(cls, pairs: int) -> "FixedLogps":
        """Where there is no reference: 0, so that a log-ratio is the log-prob itself."""
        return cls(torch.zeros(pairs), torch.zeros(pairs))


@dataclass(frozen=True)
class PairSet:
    """Pairs with their log-probs under the reference and under the base."""

    pairs: list[Pair]
    reference: FixedLogps
    base: FixedLogps


def fixed_logps(
    engine: Engine,
    pairs: Sequence[Pair],
    folders: Sequence[Path],
    weights_hash: str,
    each: Callable[[int], None],
    ld_alpha: float | None = None,
) -> FixedLogps:
    """Log-probs of `pairs` under the model as it stands, from a cache if it has them.

    The cache file's name is a hash of the weights, their dtype and device, and every
    token id; it is looked for in `folders` and written to the first. Learning rate,
    loss and the like are not in it: they do not change the answer.
    """
    if ld_alpha is not None:
        weights_hash = f"{weights_hash} ld_alpha {ld_alpha}"
    name = _cache_name(engine, pairs, weights_hash)
    for folder in folders:
        try:
            cached = load_file(folder / name)
            return FixedLogps(cached["chosen"], cached["rejected"])
        except (OSError, SafetensorError, KeyError):
            continue  # absent or torn: computed again
    chosen, rejected = torch.zeros(len(pairs)), torch.zeros(len(pairs))
    for indexes, scores in score_set(engine, pairs, each):
        one, other = scores.pair_logps(ld_alpha)
        chosen[indexes], rejected[indexes] = one.cpu(), other.cpu()
    result = FixedLogps(chosen, rejected)
    _save_cache(folders[0] / name, result)
    return result


def _cache_name(engine: Engine, pairs: Sequence[Pair], weights_hash: str) -> str:
    base = engine.causal_lm
    device = base.get_input_embeddings().weight.device.type
    attention = base.config._attn_implementation
    digest = hashlib.sha256(
        f"{weights_hash} {base.dtype} {device} {attention} {engine.layout}\n".encode()
    )
    for pair in pairs:
        ids = (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)
        digest.update(repr(ids).encode())
    return f"{digest.hexdigest()[:32]}.safetensors"


def _save_cache(path: Path, logps: FixedLogps) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"tmp-{path.name}")
    save_file({"chosen": logps.chosen, "rejected": logps.rejected}, temporary)
    fsync_path(temporary)
    os.replace(temporary, path)

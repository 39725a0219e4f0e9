"""Log-probs under weights that do not change: the reference, and the base for drift.

Taken before the first step that needs them. A run keeps the sums it used in its own
folder, so that a resumed run goes on with the very same ones; what they are made of,
the log-probs of each answer's tokens, comes from a cache (`logp_cache.py`) that runs,
sweeps and rounds can share, and only what it lacks is computed. Draws no random number.
Leaves out the policy; see `train.py`.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.dpo.adapter import adapter_scales
from training.dpo.data import Pair
from training.dpo.distributed import from_main, gathered, is_main
from training.dpo.files import put_in_place
from training.dpo.forward import Engine, answer_sum, score_set
from training.dpo.logp_cache import LogpCache, Values, answer_key
from training.dpo.progress import say
from training.dpo.sharding import pass_dtype

FLUSH_SECONDS = 30.0
"""What a kill costs at most, in seconds of computing."""

PAIRS_AT_ONCE = 2048
"""Pairs whose answers are summed together; bounds what is copied to the device."""

FORWARD_VERSION = 2
"""Raised when a change to the forward pass moves log-probs by more than rounding."""


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


@dataclass
class ReferenceStore:
    """Where a run finds log-probs and keeps them, and how many answers it found.

    `cache`: folder of the cache, perhaps shared. `kept`: folders of the sums that this
    run and the one it was resumed from used; the first is this run's.
    """

    cache: Path
    kept: Sequence[Path]
    computed: int = 0
    cached: int = 0

    def told(self) -> dict[str, int]:
        """For summary.json: answers computed by this process, and found."""
        return {"computed": self.computed, "cached": self.cached}


def fixed_logps(
    engine: Engine,
    pairs: Sequence[Pair],
    store: ReferenceStore,
    weights_hash: str,
    each: Callable[[int], None],
    ld_alpha: float | None = None,
) -> FixedLogps:
    """Log-probs of `pairs` under the model as it stands, computed where not known.

    `weights_hash` is that of all its weights, adapter included if it counts. `each` is
    called before every forward pass with the number of pairs done; what it raises ends
    the pass, and what was computed until then is kept. Learning rate, loss and seed are
    not looked at: they do not change the answer. `ld_alpha`: how tokens are summed; see
    `forward.answer_sum`.
    """
    cache = LogpCache(store.cache, context(engine, weights_hash))
    keys = [
        [
            answer_key(pair.prompt_ids, answer)
            for answer in (pair.chosen_ids, pair.rejected_ids)
            if answer  # a labelled answer may have no stray
        ]
        for pair in pairs
    ]
    name = _set_name(f"{cache.name} {ld_alpha}", keys)
    kept = from_main(_load_kept(store.kept[:1], name) if is_main() else None)
    if kept is not None:
        store.cached += len({key for sides in keys for key in sides})
        return kept
    kept = from_main(_load_kept(store.kept[1:], name) if is_main() else None)
    if kept is None:
        # What process 0 finds counts: the cache may fill while they read it.
        values = _find(cache, keys) if is_main() else {}
        store.cached += len(values)
        missing = from_main(_missing(keys, values))
        known = len(pairs) - len(missing)
        if missing:
            scored = score_set(
                engine,
                [pairs[index] for index in missing],
                lambda done: each(known + done),
            )
            sides = [keys[index] for index in missing]
            store.computed += sum(gathered(_compute(scored, sides, cache, values)))
            for others in gathered({} if is_main() else values):
                values |= others
        device = engine.causal_lm.get_input_embeddings().weight.device
        if is_main():
            answers = [[values[key] for key in sides] for sides in keys]
            kept = _sums(answers, device, ld_alpha)
        kept = from_main(kept)
    else:
        store.cached += len({key for sides in keys for key in sides})
    if is_main():
        _keep(store.kept[0], name, kept)
    return kept


def context(engine: Engine, weights_hash: str) -> dict[str, str]:
    """What log-probs depend on besides the tokens: weights, dtype, kernels, machine.

    Not how rows share a forward pass: that moves only the last bits.
    """
    base = engine.causal_lm
    device = base.get_input_embeddings().weight.device
    kind = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    return {
        "weights": weights_hash,
        "dtype": str(pass_dtype(base)),
        "attention": str(base.config._attn_implementation),
        "adapter_scale": str(adapter_scales(engine.model)),
        "device": f"{device.type} {kind}",
        "float32_matmul": torch.get_float32_matmul_precision(),
        "forward": f"{FORWARD_VERSION} {engine.kind}",
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def _find(cache: LogpCache, keys: Sequence[list[bytes]]) -> dict[bytes, Values]:
    try:
        return cache.get(key for sides in keys for key in sides)
    except OSError as error:
        say(f"The reference cache cannot be read ({error}); everything is computed.")
        return {}


def _missing(keys: Sequence[list[bytes]], values: Mapping[bytes, Values]) -> list[int]:
    """Indexes of the pairs to compute: each unknown answer is in one of them."""
    covered = set(values)
    missing = []
    for index, sides in enumerate(keys):
        if not covered.issuperset(sides):
            covered.update(sides)
            missing.append(index)
    return missing


def _compute(
    scored: Iterator[tuple[list[int], Any]],
    keys: Sequence[list[bytes]],
    cache: LogpCache,
    values: dict[bytes, Values],
) -> int:
    """Add to `values` what was unknown, and to the cache now and then; how many.

    What another process stored meanwhile is taken from there.
    """
    fresh: dict[bytes, Values] = {}
    computed, flushed_at = 0, time.monotonic()
    try:
        for indexes, scores in scored:
            parts = scores.token_logps.float().cpu().split(scores.lengths)
            sides = [keys[index][0] for index in indexes]
            sides += [key for index in indexes for key in keys[index][1:]]
            for key, part in zip(sides, parts, strict=True):
                if key not in values and key not in fresh:
                    fresh[key] = part.numpy()
                    computed += 1
            if time.monotonic() - flushed_at >= FLUSH_SECONDS:
                values |= _stored(cache, fresh)
                fresh, flushed_at = {}, time.monotonic()
    finally:
        values |= _stored(cache, fresh)
    return computed


def _stored(cache: LogpCache, fresh: dict[bytes, Values]) -> dict[bytes, Values]:
    try:
        return cache.add(fresh)
    except OSError as error:
        say(f"The reference cache cannot be written ({error}); the run goes on.")
        return fresh


def _sums(
    answers: Sequence[Sequence[Values]],
    device: torch.device,
    ld_alpha: float | None,
) -> FixedLogps:
    """Sums of the log-probs of (chosen, rejected), added up as the policy's are; 0 of
    what is not there."""
    sums: tuple[list[Tensor], list[Tensor]] = ([], [])
    for start in range(0, len(answers), PAIRS_AT_ONCE):
        part = answers[start : start + PAIRS_AT_ONCE]
        shared = [min(map(len, pair)) for pair in part]
        for side, total in enumerate(sums):
            values = [pair[side] if side < len(pair) else pair[0][:0] for pair in part]
            together = torch.from_numpy(np.concatenate(values)).to(device)
            rows = together.split([len(value) for value in values])
            total += [
                answer_sum(row, short, ld_alpha)
                for row, short in zip(rows, shared, strict=True)
            ]
    chosen, rejected = (torch.stack(total).cpu() for total in sums)
    return FixedLogps(chosen, rejected)


def _set_name(context_name: str, keys: Sequence[list[bytes]]) -> str:
    digest = hashlib.sha256(context_name.encode())
    for sides in keys:
        # Else pairs and the same pairs taken apart into single answers had one name.
        digest.update(b"".join(sides) if len(sides) > 1 else sides[0] + b" alone")
    return f"sums-{digest.hexdigest()[:32]}.safetensors"


def _load_kept(folders: Sequence[Path], name: str) -> FixedLogps | None:
    for folder in folders:
        try:
            tensors = load_file(folder / name)
            return FixedLogps(tensors["chosen"], tensors["rejected"])
        except (OSError, SafetensorError, KeyError):
            continue  # absent or torn: taken from the cache again
    return None


def _keep(folder: Path, name: str, logps: FixedLogps) -> None:
    if (folder / name).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"tmp-{name}"
    save_file({"chosen": logps.chosen, "rejected": logps.rejected}, temporary)
    put_in_place(temporary, folder / name)

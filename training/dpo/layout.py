"""How large a run's forward passes may be, and what their layers keep, by its memory.

Looks at where passes will run: a base to be split over GPUs still lies in main memory
when this is decided. Leaves out the estimates themselves; see `defaults.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from training.dpo.batches import Layout, room_alike
from training.dpo.config import TrainingConfig
from training.dpo.data import Pair, prompts_of
from training.dpo.defaults import forward_tokens, kept_bytes, passes_held
from training.dpo.distributed import from_main, world_size
from training.dpo.machine import device_memory
from training.dpo.tuning import is_to_shard

FULL_BYTES = 16
"""Of a weight that trains: itself, its gradient and AdamW's two means, all float32."""


def plan_layout(
    config: TrainingConfig,
    base: Any,
    device: torch.device,
    tokenizer: Any,
    pairs: Sequence[Pair],
    earlier: Mapping[str, Any],
) -> tuple[Layout, bool]:
    """What the memory of `device` allows: (layout, whether layers keep only their input).

    `earlier`: the state of the checkpoint to go on from, whose layout stays, but for
    what the config now asks to be smaller.
    """
    on_cpu = device.type == "cpu"
    memory = from_main(device_memory(device))
    max_tokens = earlier.get("max_tokens") or forward_tokens(
        base.config, memory, not on_cpu
    )
    # Of labelled answers a stray has a pass of its own; here there is none yet.
    largest = max(
        len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)
        for pair in pairs
    )
    is_alike = len(prompts_of(pairs)) < len(pairs) and config.savings.share_prefixes
    room = room_alike(max_tokens) if is_alike else max_tokens
    kept = kept_bytes(base.config, max(room, largest), base.dtype.itemsize, on_cpu)
    held = passes_held(kept, weight_bytes(config, base, device), memory)
    lanes = 1
    if on_cpu and config.savings.side_by_side:
        lanes = earlier.get("lanes") or max(1, min(torch.get_num_threads(), held))
    asked = config.savings.checkpointing
    return (
        Layout(max_tokens, config.micro_batch_size, _pad_id(tokenizer), lanes),
        asked if isinstance(asked, bool) else not held,
    )


def weight_bytes(config: TrainingConfig, base: Any, device: torch.device) -> int:
    """What the base's weights, and what training them takes, hold on one `device`."""
    total = 0
    for weight in base.parameters():
        a_weight = weight.element_size()
        if config.tuning == "full":
            # 16-bit ones stay as copies beside the float32 ones.
            a_weight = FULL_BYTES + (a_weight if a_weight < 4 else 0)
        total += weight.numel() * a_weight
    return total // world_size() if is_to_shard(base, config, device) else total


def _pad_id(tokenizer: Any) -> int:
    """Any id does: nothing after a row's end reaches it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0

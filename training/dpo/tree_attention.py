"""Lets a transformers model run over a tree: its own layers, or ours in their place.

transformers looks its attention up by name, so ours is registered under one and the
model's config names it while a pass runs. Leaves out what the attention computes; see
`attention.py` for CPUs and `flex.py` for GPUs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from training.dpo import flex
from training.dpo.attention import SPARE_KEYS, TreeAttention, plan_attention
from training.dpo.config import Savings
from training.dpo.layers import Holder, Pass
from training.dpo.linear import pick_product
from training.dpo.machine import on_device
from training.dpo.tree import Tree

NAME = "tiebreak_tree"

STATE_STEP = 64
"""Packed sequences and the states that are kept are filled up to multiples of this:
oneDNN keeps code for every shape it meets."""

_running = Holder()
"""The pass that transformers' own layers run: they hand no more than q, k and v."""


def plan_pass(
    tree: Tree, kept: Sequence[int] | None, model: Any, savings: Savings
) -> Pass:
    """`kept`: packed indexes of the states that leave the last layer; None: all."""
    device, fast = model.device, savings.fast_products
    way = attention_way(device.type, savings.split_attention)
    by_segment = way == "segments"
    last = plan_attention(tree, kept) if by_segment and kept is not None else None
    return Pass(
        tree=tree,
        reaches=plan_attention(tree) if by_segment else [],
        last_reaches=last,
        kept=None if kept is None else on_device(kept, device),
        product=pick_product(device, model.dtype, fast),
        float32_product=pick_product(device, torch.float32, fast),
        split=savings.split_attention,
        block_mask=flex.tree_block_mask(tree, device) if way == "flex" else None,
    )


def attention_way(device_type: str, split: bool) -> str:
    """ "flex", "segments", or "mask": torch's attention under one mask.

    Segments are many small products, cheap to call on a CPU alone, for which torch's
    FlexAttention has no backward pass.
    """
    if not split:
        return "mask"
    return "flex" if device_type == "cuda" else "segments"


@contextmanager
def tree_attention(
    model: Any, holder: Holder, run: Pass, fused: bool
) -> Iterator[dict[str, Any]]:
    """While it lasts, `model` runs the pass; yields further arguments for it."""
    options: dict[str, Any] = {}
    if fused:
        holder.current = run
    elif run.split:
        _running.current = run
    else:
        options["attention_mask"] = dense_mask(run.tree).to(model.device)
    named = named_attention(model) if fused or run.split else nullcontext()
    try:
        with named:
            yield options
    finally:
        holder.current = _running.current = None


@contextmanager
def named_attention(model: Any) -> Iterator[None]:
    """While it lasts, `model` takes our attention, and makes no mask for it.

    Threads that run passes at once share the model's config: hold this around them, so
    that the first to end does not take the name from the others.
    """
    text = model.config.get_text_config()
    before = text._attn_implementation_internal
    text._attn_implementation_internal = NAME
    try:
        yield
    finally:
        text._attn_implementation_internal = before


def packed_length(tokens: int, way: str) -> int:
    """What a packed sequence is filled up to for an `attention_way`."""
    if way == "flex":
        return flex.packed_length(tokens)
    return tokens + -tokens % STATE_STEP


def dense_mask(tree: Tree) -> Tensor:
    """(1, 1, P', P') bool, P' the packed length filled up: who sees whom."""
    count = packed_length(len(tree.ids), "mask")
    mask = torch.eye(count, dtype=torch.bool)
    for segment in tree.segments:
        own = slice(segment.start, segment.end)
        for start, end in segment.before:
            mask[own, start:end] = True
        size = segment.end - segment.start
        mask[own, own] = torch.ones(size, size, dtype=torch.bool).tril()
    return mask[None, None]


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' signature: (1, heads, P, D) each → (1, P, heads, D)."""
    run = _running.current
    if run is None or kwargs.get("softcap") is not None:
        raise NotImplementedError("attention that a tree cannot run")
    heads, size = key.shape[1], key.shape[3]
    scale = size**-0.5 if scaling is None else scaling
    if run.block_mask is not None:
        return flex.attend(query, key, value, run.block_mask, scale), None
    spare = (0, 0, 0, SPARE_KEYS)
    out = TreeAttention.apply(
        query[0].unflatten(0, (heads, -1)),
        torch.nn.functional.pad(key[0], spare),
        torch.nn.functional.pad(value[0], spare),
        run.reaches,
        scale,
        run.float32_product,
    )
    return out.unflatten(-1, (query.shape[1], -1))[None], None


AttentionInterface.register(NAME, _attend)

"""Attention along a tree: each token sees its ancestors and itself, nothing else.

Each segment's queries, some at a time, meet the keys of their ancestors and their own
segment by plain matrix products (half as long again as torch's fused kernel
takes on a CPU); the products of the whole packed sequence with itself never exist, and
the backward pass computes the probabilities again instead of keeping them. As in
FlashAttention (https://arxiv.org/abs/2205.14135), scores, probabilities and their
gradients are float32, and rounded to the model's dtype where they are multiplied again.
Leaves out GPUs (`flex.py`), sliding windows, sinks, soft caps and dropout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.dpo.linear import Product, plain_product
from training.dpo.tree import Range, Tree

QUERIES_AT_ONCE = 128
KEY_STEP, QUERY_STEP = 128, 32
"""Blocks are filled up to multiples of these: oneDNN keeps code for every shape."""

SPARE_KEYS = KEY_STEP
"""Rows of zeros that keys and values carry behind the packed sequence."""

FEW = 1 << 13
"""Products below this size go over all heads at once."""


@dataclass(frozen=True)
class Block:
    """Queries [start, end) against the first `keys` keys of their segment's list.

    `bias` (end - start, ·) is added to the last columns of the scores: −inf where a
    query must not look. The columns before it are seen by all.
    """

    start: int
    end: int
    keys: int
    bias: Tensor


@dataclass(frozen=True)
class Reach:
    """What a segment's queries may see: ranges of the packed sequence, and blocks."""

    ranges: tuple[Range, ...]
    blocks: tuple[Block, ...]

    @property
    def keys(self) -> int:
        return max(block.keys for block in self.blocks)


def plan_attention(tree: Tree, queries: Sequence[int] | None = None) -> list[Reach]:
    """Blocks for all tokens, or for `queries` (packed indexes, rising) alone."""
    rows = range(len(tree.ids)) if queries is None else queries
    reaches = []
    at = 0
    for segment in tree.segments:
        first = at
        while at < len(rows) and rows[at] < segment.end:
            at += 1
        if at == first:
            continue
        earlier = sum(end - start for start, end in segment.before)
        blocks = []
        for start in range(first, at, QUERIES_AT_ONCE):
            end = min(start + QUERIES_AT_ONCE, at)
            seen = [
                earlier + rows[row] - segment.start + 1 for row in range(start, end)
            ]
            keys = _up(seen[-1], KEY_STEP)
            columns = torch.arange(seen[0], keys)
            bias = torch.zeros(len(seen), len(columns))
            bias.masked_fill_(columns >= torch.tensor(seen)[:, None], -torch.inf)
            blocks.append(Block(start, end, keys, bias))
        own = (segment.start, segment.end)
        if segment.before and segment.before[-1][1] == segment.start:
            ranges = (*segment.before[:-1], (segment.before[-1][0], segment.end))
        else:
            ranges = (*segment.before, own)
        reaches.append(Reach(ranges, tuple(blocks)))
    return reaches


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: list[Reach], scale: float, product: Product
) -> Tensor:
    """softmax(scale · q kᵀ) v along the tree.

    q (K, G, Q, D): the G query heads of each of the K key heads; k, v (K, P +
    SPARE_KEYS, D). Returns (Q, K·G·D) in q's dtype.
    """
    heads, group, count, size = q.shape
    out = q.new_zeros(count, heads, group, size)
    for reach in plan:
        keys, values = _gathered(k, reach).float(), _gathered(v, reach)
        for block in reach.blocks:
            queries = _queries(q[:, :, block.start : block.end], scale)
            for head in _turns(queries, block.keys):
                p = _probabilities(queries[head], keys[head], block, group, product)
                p = p.to(v.dtype)
                got = _times(p, values[head][..., : block.keys, :].mT, product)
                _heads_last(out, block, head).copy_(_cut(got, group, block))
    return out.view(count, -1)


def attend_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: list[Reach],
    scale: float,
    product: Product,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v (in their shapes and dtypes) of `attend`."""
    heads, group, count, size = q.shape
    d_out = d_out.view(count, heads, group, size)
    dq = torch.zeros_like(q)
    dk = torch.zeros_like(k, dtype=torch.float32)
    dv = torch.zeros_like(v, dtype=torch.float32)
    for reach in plan:
        keys, wide_values = _gathered(k, reach), _gathered(v, reach).float()
        wide_keys = keys.float()
        d_keys, d_values = _gathered_zeros(dk, reach), _gathered_zeros(dv, reach)
        for block in reach.blocks:
            queries = _queries(q[:, :, block.start : block.end], scale)
            part = d_out[block.start : block.end].permute(1, 2, 0, 3)
            d_got = _queries(part, 1.0)
            low_queries, low_d_got = queries.to(k.dtype), d_got.to(v.dtype)
            for head in _turns(queries, block.keys):
                seen = (..., slice(0, block.keys), slice(None))
                p = _probabilities(
                    queries[head], wide_keys[head], block, group, product
                )
                d_p = _times(d_got[head], wide_values[head][seen], product)
                d_s = torch._softmax_backward_data(d_p, p, -1, torch.float32)
                p, d_s = p.to(v.dtype), d_s.to(k.dtype)
                d_values[head][seen] += _times(p.mT, low_d_got[head].mT, product)
                d_keys[head][seen] += _times(d_s.mT, low_queries[head].mT, product)
                d_q = _times(d_s, keys[head][seen].mT, product).mul_(scale)
                dq[head][..., block.start : block.end, :] = _cut(d_q, group, block)
        _add_back(dk, d_keys, reach)
        _add_back(dv, d_values, reach)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _queries(q: Tensor, scale: float) -> Tensor:
    """(K, G, n, D) → (K, G·n', D) float32, scaled, n' ≥ n filled up with zeros."""
    heads, group, count, size = q.shape
    filled = q.new_zeros(
        heads, group, _up(count, QUERY_STEP), size, dtype=torch.float32
    )
    torch.mul(q, scale, out=filled[:, :, :count])
    return filled.view(heads, -1, size)


def _turns(queries: Tensor, keys: int) -> Sequence[Any]:
    """One head at a time, unless that would be more calls than work."""
    heads, count, _ = queries.shape
    return [slice(None)] if count * keys < FEW else range(heads)


def _probabilities(
    queries: Tensor, keys: Tensor, block: Block, group: int, product: Product
) -> Tensor:
    scores = _times(queries, keys[..., : block.keys, :], product)
    rows, columns = block.bias.shape
    by_query = scores.unflatten(-2, (group, -1))[..., :rows, block.keys - columns :]
    by_query.add_(block.bias)
    return torch.softmax(scores, dim=-1)


def _times(x: Tensor, w: Tensor, product: Product) -> Tensor:
    """x wᵀ, over heads where there are any; `product` is for float32."""
    if x.dim() != 2:
        return x @ w.mT
    return product(x, w) if x.dtype == torch.float32 else plain_product(x, w)


def _cut(values: Tensor, group: int, block: Block) -> Tensor:
    """(…, G·n', D) → (…, G, n, D)."""
    return values.unflatten(-2, (group, -1))[..., : block.end - block.start, :]


def _heads_last(out: Tensor, block: Block, head: Any) -> Tensor:
    """The block's part of `out` (Q, K, G, D), as (K, G, n, D) or (G, n, D)."""
    return out[block.start : block.end].permute(1, 2, 0, 3)[head]


def _gathered(k: Tensor, reach: Reach) -> Tensor:
    """The keys that a segment sees, then some more that nobody looks at."""
    if len(reach.ranges) == 1:
        start = reach.ranges[0][0]
        return k[:, start : start + reach.keys]
    parts = [k[:, start:end] for start, end in reach.ranges]
    spare = reach.keys - sum(part.shape[1] for part in parts)
    if spare > 0:
        parts.append(k.new_zeros(k.shape[0], spare, k.shape[2]))
    return torch.cat(parts, dim=1)


def _gathered_zeros(dk: Tensor, reach: Reach) -> Tensor:
    """Where the gradients of `_gathered` add up: in place if it is one range."""
    if len(reach.ranges) == 1:
        start = reach.ranges[0][0]
        return dk[:, start : start + reach.keys]
    width = max(reach.keys, sum(end - start for start, end in reach.ranges))
    return dk.new_zeros(dk.shape[0], width, dk.shape[2])


def _add_back(dk: Tensor, d_keys: Tensor, reach: Reach) -> None:
    if len(reach.ranges) == 1:
        return
    at = 0
    for start, end in reach.ranges:
        dk[:, start:end] += d_keys[:, at : at + end - start]
        at += end - start


class TreeAttention(torch.autograd.Function):
    """`attend` for models whose own code calls it."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        plan: list[Reach],
        scale: float,
        product: Product,
    ) -> Tensor:
        """q (K, G, P, D), k and v (K, P + SPARE_KEYS, D) → (P, K·G·D)."""
        ctx.save_for_backward(q, k, v)
        ctx.rest = (plan, scale, product)
        return attend(q, k, v, plan, scale, product)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Probabilities are computed again."""
        d_out = grads[0].contiguous()
        return *attend_backward(d_out, *ctx.saved_tensors, *ctx.rest), None, None, None

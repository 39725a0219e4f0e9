"""Attention along a tree on a GPU: torch's FlexAttention, compiled once for all lengths.

Packed depth first, all that descends from a token lies right behind it. So query i sees
key j if j ≤ i < end[j], the packed end of what descends from j's segment: the whole tree
is one vector. Of the blocks of 128 × 128 those that nothing is seen in are skipped, and
those seen whole need no mask; both follow from the smallest and largest end of 128 keys,
so that no mask of the packed length squared is ever made. Leaves out CPUs, for which
torch 2.13 has no backward pass of it, and the models it cannot run (heads below 16);
`check.py` finds those. Equal to masked attention by test on a CPU; no GPU has run it yet.

FlexAttention: https://arxiv.org/abs/2412.05496
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from training.dpo.machine import on_device
from training.dpo.tree import Tree

BLOCK = 128
"""Queries and keys in a block, torch's usual; packed sequences are filled up to it."""

LEAST_BLOCKS = 3
"""The compiler takes sizes of one, or equal to another size (two key heads), as given
for good, and would compile again for the next length."""


def packed_length(tokens: int) -> int:
    """What a packed sequence of `tokens` is filled up to."""
    return BLOCK * max(LEAST_BLOCKS, -(-tokens // BLOCK))


def ends_of(tree: Tree) -> list[int]:
    """(P',) the packed end of what sees each token; fillers see themselves."""
    ends = list(range(1, packed_length(len(tree.ids)) + 1))
    for segment in tree.segments:
        # In packed order: the last descendant's end stays.
        for start, end in (*segment.before, (segment.start, segment.end)):
            ends[start:end] = [segment.end] * (end - start)
    return ends


def tree_block_mask(tree: Tree, device: torch.device) -> BlockMask:
    """Who sees whom, for `attend`."""
    ends = on_device(ends_of(tree), device).int()
    of_keys = ends.view(-1, BLOCK)
    first = torch.arange(0, len(ends), BLOCK, device=device)[:, None]
    earlier = first > first.T
    some = (earlier & (of_keys.amax(1) > first)) | (first == first.T)
    whole = earlier & (of_keys.amin(1) >= first + BLOCK)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    return BlockMask.from_kv_blocks(
        *(*_listed(some & ~whole), *_listed(whole)),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(len(ends), len(ends)),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(how many, which first) of each row's blocks (N, N), as BlockMask has them."""
    counts = blocks.sum(dim=1, dtype=torch.int32)
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True)
    return counts[None, None], order.int()[None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """softmax(scale · q kᵀ) v along the tree; differentiable.

    q (1, heads, P', D), k and v (1, key heads, P', D) → (1, P', heads, D).
    """
    grouped = q.shape[1] != k.shape[1]
    out: Tensor = kernel()(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)


@cache
def kernel(backend: str = "inductor") -> Callable[..., Tensor]:
    """FlexAttention for any length, compiled when first called, which takes a while.

    A whole graph or an error: torch's way without a compiler would make the products of
    the packed sequence with itself.
    """
    compiled: Callable[..., Tensor] = torch.compile(
        flex_attention, dynamic=True, fullgraph=True, backend=backend
    )
    return compiled

"""Decoder layers of Llama's structure with their own forward and backward pass.

RMS norm, attention with rotary positions (with or without biases and norms of queries
and keys) and a gated feed-forward layer, read by `layer_parts.py`. What autograd would
keep and copy is spared: LoRA's share is added to the layer's product in place, a frozen
weight gets no gradient, and norms, rotations, probabilities and the two inner vectors of
the feed-forward layer are computed again in the backward pass, so that a layer keeps
six vectors a token, none of them an inner one. The last layer computes only the states
that are scored (of the others only keys and values count). transformers' loop, its
embedding and its last norm stay in use, and each layer's hooks fire. Leaves out dropout and base weights that train.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from training.dpo.attention import SPARE_KEYS, Reach, attend, attend_backward
from training.dpo.layer_parts import NAMES, Layer, read_layer
from training.dpo.linear import Product
from training.dpo.tree import Tree


@dataclass
class Pass:
    """What the layers of one forward pass need to know of its tree.

    `kept`: packed indexes of the states that leave the last layer; None: all.
    `split`: attention by segments, else under one mask (transformers' layers only).
    `block_mask`: for a GPU's attention (`flex.py`), which takes no reaches.
    `keeps_input_only`: a layer keeps its input and computes the rest again.
    """

    tree: Tree
    reaches: list[Reach]
    last_reaches: list[Reach] | None
    kept: Tensor | None
    product: Product
    float32_product: Product
    split: bool = True
    keeps_input_only: bool = False
    block_mask: BlockMask | None = None


class Holder(threading.local):
    """The pass that this thread runs; None: the model runs as transformers made it."""

    current: Pass | None = None


def replace_forward(layer: Any, holder: Holder, is_last: bool) -> Callable[[], None]:
    """Have `layer` run here whenever `holder` has a pass; returns the way back."""
    original = layer.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        current = holder.current
        if current is None:
            return original(hidden_states, *args, **kwargs)
        cos, sin = kwargs["position_embeddings"]
        read = read_layer(layer, is_last)
        out = FusedLayer.apply(
            hidden_states[0], cos[0], sin[0], read, current, *read.adapters
        )
        return out[None]

    layer.forward = forward

    def restore() -> None:
        del layer.forward

    return restore


@dataclass
class Kept:
    """What a layer keeps for its backward pass. `lows`: x Aᵀ of each projection up to
    `middle`; those behind it run again."""

    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    middle: Tensor
    lows: dict[str, Tensor | None] = field(default_factory=dict)


def run_layer(
    x: Tensor, cos: Tensor, sin: Tensor, layer: Layer, run: Pass
) -> tuple[Tensor, Kept]:
    """x (P, H) → (P, H), or (kept states, H) of the last layer."""
    kept, projections = run_attention(x, cos, sin, layer, run), layer.projections
    normed = rms_norm(kept.middle, *layer.norms["post"])
    gate, _ = projections["gate"].forward(normed, run.product)
    up, _ = projections["up"].forward(normed, run.product)
    inner = torch.nn.functional.silu(gate).mul_(up)
    del normed, gate, up
    out, _ = projections["down"].forward(inner, run.product)
    out += kept.middle
    return out, kept


def run_attention(x: Tensor, cos: Tensor, sin: Tensor, layer: Layer, run: Pass) -> Kept:
    """The layer up to its feed-forward part, which the backward pass runs by itself."""
    product, lows = run.product, {}

    def project(name: str, value: Tensor) -> Tensor:
        y, lows[name] = layer.projections[name].forward(value, product)
        return y

    kept = run.kept if layer.is_last else None
    normed = rms_norm(x, *layer.norms["in"])
    k, v = project("k", normed), project("v", normed)
    q = project("q", normed if kept is None else normed[kept])
    del normed
    q_heads, k_heads, v_heads = _heads(q, k, v, cos, sin, layer, kept)
    attended = attend(
        *(q_heads, k_heads, v_heads, _reaches(layer, run)),
        *(layer.scale, run.float32_product),
    )
    del q_heads, k_heads, v_heads
    middle = project("o", attended)
    middle += x if kept is None else x[kept]
    return Kept(q, k, v, attended, middle, lows)


def run_layer_backward(
    d_out: Tensor,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    run: Pass,
    saved: Kept,
    needs_dx: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """(gradient of x if needed, gradients of `layer.adapters`)."""
    product, projections, lows = run.product, layer.projections, saved.lows
    kept = run.kept if layer.is_last else None
    gradients: dict[str, list[Tensor]] = {}

    def back(name: str, dy: Tensor, value: Tensor | None) -> Tensor | None:
        low, gradients[name] = projections[name].backward(
            dy, value, lows[name], product
        )
        return low

    def through(name: str, dy: Tensor, value: Tensor | None) -> Tensor:
        return projections[name].input_gradient(dy, back(name, dy, value), product)

    normed = rms_norm(saved.middle, *layer.norms["post"])
    gate, lows["gate"] = projections["gate"].forward(normed, product)
    up, lows["up"] = projections["up"].forward(normed, product)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    inner = silu * up
    lows["down"] = projections["down"].low(inner, product)
    d_product = through("down", d_out, inner)
    del inner
    d_up = silu.mul_(d_product)
    # d silu = σ(g)(1 + g(1 − σ(g)))
    slope = sigmoid.neg().add_(1).mul_(gate).add_(1).mul_(sigmoid)
    d_gate = slope.mul_(d_product).mul_(up)
    del d_product, sigmoid, slope, silu, gate, up
    d_normed = through("gate", d_gate, normed)
    d_normed += through("up", d_up, normed)
    del d_gate, d_up, normed
    d_middle = rms_norm_backward(d_normed, saved.middle, *layer.norms["post"])
    d_middle += d_out
    d_attended = through("o", d_middle, saved.attended)
    heads = _heads(saved.q, saved.k, saved.v, cos, sin, layer, kept)
    d_heads = attend_backward(
        *(d_attended, *heads, _reaches(layer, run)),
        *(layer.scale, run.float32_product),
    )
    del d_attended, heads
    dq, dk, dv = _heads_backward(*d_heads, cos, sin, layer, kept, saved)
    del d_heads
    normed = rms_norm(x, *layer.norms["in"])
    picked = normed if kept is None else normed[kept]
    low_q, low_k, low_v = (
        *(back("q", dq, picked), back("k", dk, normed)),
        back("v", dv, normed),
    )
    listed = [gradient for name in NAMES for gradient in gradients[name]]
    if not needs_dx:
        return None, listed
    del normed, picked
    d_normed = projections["k"].input_gradient(dk, low_k, product)
    d_normed += projections["v"].input_gradient(dv, low_v, product)
    d_query = projections["q"].input_gradient(dq, low_q, product)
    if kept is None:
        d_normed += d_query
        dx = rms_norm_backward(d_normed, x, *layer.norms["in"])
        dx += d_middle
    else:
        d_normed.index_add_(0, kept, d_query)
        dx = rms_norm_backward(d_normed, x, *layer.norms["in"])
        dx.index_add_(0, kept, d_middle)
    return dx, listed


def _reaches(layer: Layer, run: Pass) -> list[Reach]:
    if layer.is_last and run.last_reaches is not None:
        return run.last_reaches
    return run.reaches


def _heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Projections (P, heads · D) as `attend` takes them, normed and rotated."""
    size = layer.head_size
    q, k, v = (value.unflatten(-1, (-1, size)) for value in (q, k, v))
    if "q" in layer.norms:
        q, k = rms_norm(q, *layer.norms["q"]), rms_norm(k, *layer.norms["k"])
    q_cos, q_sin = (cos, sin) if kept is None else (cos[kept], sin[kept])
    q_heads = rotate(q, q_cos, q_sin, 0).unflatten(0, (k.shape[1], -1))
    v_heads = v.new_zeros(v.shape[1], v.shape[0] + SPARE_KEYS, size)
    v_heads[:, : v.shape[0]] = v.transpose(0, 1)
    return q_heads, rotate(k, cos, sin, SPARE_KEYS), v_heads


def _heads_backward(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    kept: Tensor | None,
    saved: Kept,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the projections from those of `_heads`: (P, heads · D)."""
    size, tokens = layer.head_size, len(saved.k)
    q_cos, q_sin = (cos, sin) if kept is None else (cos[kept], sin[kept])
    dq = rotate_backward(dq.flatten(0, 1), q_cos, q_sin)
    dk = rotate_backward(dk[:, :tokens], cos, sin)
    if "q" in layer.norms:
        q, k = (value.unflatten(-1, (-1, size)) for value in (saved.q, saved.k))
        dq = rms_norm_backward(dq, q, *layer.norms["q"])
        dk = rms_norm_backward(dk, k, *layer.norms["k"])
    dv = dv[:, :tokens].transpose(0, 1)
    return dq.flatten(1), dk.flatten(1), dv.flatten(1).contiguous()


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """weight · x / sqrt(mean(x²) + ε) over the last dimension, as Llama rounds it."""
    wide = x.float()
    return (wide * _reciprocal(wide, epsilon)).to(x.dtype).mul_(weight)


def rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Gradient of x: r · (g − x · r² · mean(g x)) with g = dy · weight."""
    wide = x.float()
    r = _reciprocal(wide, epsilon)
    g = dy.float() * weight
    share = torch.linalg.vecdot(g, wide)[..., None].mul_(r.square() / x.shape[-1])
    return g.addcmul_(wide, share, value=-1).mul_(r).to(x.dtype)


def _reciprocal(wide: Tensor, epsilon: float) -> Tensor:
    squares = torch.linalg.vecdot(wide, wide)[..., None]
    return squares.div_(wide.shape[-1]).add_(epsilon).rsqrt_()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, spare: int) -> Tensor:
    """Rotary positions: x (P, heads, D), cos and sin (P, D) → (heads, P + spare, D).

    Coordinate i turns with coordinate i + D/2 (https://arxiv.org/abs/2104.09864 in
    Llama's order). Spare rows are zeros.
    """
    count, heads, size = x.shape
    half = size // 2
    out = x.new_zeros(heads, count + spare, size)
    turned = out[:, :count].transpose(0, 1)
    cos, sin = cos[:, None], sin[:, None]
    first, second = x[..., :half], x[..., half:]
    low, high = turned[..., :half], turned[..., half:]
    torch.mul(first, cos[..., :half], out=low).addcmul_(
        second, sin[..., :half], value=-1
    )
    torch.mul(second, cos[..., half:], out=high).addcmul_(first, sin[..., half:])
    return out


def rotate_backward(d_out: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Gradient (P, heads, D) from that of `rotate`'s output (heads, P, D)."""
    d_turned = d_out.transpose(0, 1)
    half = d_turned.shape[-1] // 2
    cos, sin = cos[:, None], sin[:, None]
    low, high = d_turned[..., :half], d_turned[..., half:]
    dx = d_turned.new_empty(d_turned.shape)
    first, second = dx[..., :half], dx[..., half:]
    torch.mul(low, cos[..., :half], out=first).addcmul_(high, sin[..., half:])
    torch.mul(high, cos[..., half:], out=second).addcmul_(
        low, sin[..., :half], value=-1
    )
    return dx


class FusedLayer(torch.autograd.Function):
    """`run_layer` with `run_layer_backward` as its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        layer: Layer,
        run: Pass,
        *adapters: Tensor,
    ) -> Tensor:
        out, kept = run_layer(x, cos, sin, layer, run)
        if any(ctx.needs_input_grad):
            ctx.inputs = (x, cos, sin, layer, run)
            ctx.kept = None if run.keeps_input_only else kept
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Frees what the layer kept: it can run once."""
        (x, cos, sin, layer, run), kept = ctx.inputs, ctx.kept
        ctx.inputs = ctx.kept = None
        if kept is None:
            kept = run_attention(x, cos, sin, layer, run)
        d_out, needs_dx = grads[0].contiguous(), ctx.needs_input_grad[0]
        dx, listed = run_layer_backward(d_out, x, cos, sin, layer, run, kept, needs_dx)
        return dx, None, None, None, None, *listed

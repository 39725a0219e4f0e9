"""A decoder layer's parts as transformers and PEFT hold them, known by their structure.

Llama's, Mistral's, Qwen 2's and 3's and SmolLM's are known; whether their numbers are
right too is `check.py`'s to see. Leaves out what is computed with them: `layers.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from training.dpo.linear import Product

LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
NORM_PARTS = {"q_norm", "k_norm"}
MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True)
class Projection:
    """y = x Wᵀ + bias + scale · (x Aᵀ) Bᵀ."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None
    b: Tensor | None
    scale: float

    def forward(self, x: Tensor, product: Product) -> tuple[Tensor, Tensor | None]:
        """(y, x Aᵀ or None) of x (T, K)."""
        y = product(x, self.weight)
        if self.bias is not None:
            y += self.bias
        low = self.low(x, product)
        if low is not None and self.b is not None:
            y += product(low * self.scale, self.b.to(x.dtype))
        return y, low

    def low(self, x: Tensor, product: Product) -> Tensor | None:
        """x Aᵀ."""
        return None if self.a is None else product(x, self.a.to(x.dtype))

    def backward(
        self, dy: Tensor, x: Tensor | None, low: Tensor | None, product: Product
    ) -> tuple[Tensor | None, list[Tensor]]:
        """(scale · dy B or None, gradients of A and B). `x` may be None without A."""
        if self.a is None or self.b is None:
            return None, []
        assert x is not None and low is not None
        d_low = product(dy, self.b.to(dy.dtype).mT).mul_(self.scale)
        d_a = product(d_low.mT, x.mT)
        d_b = product(low.mT, dy.mT).mT * self.scale
        return d_low, [d_a.to(self.a.dtype), d_b.to(self.b.dtype)]

    def input_gradient(
        self, dy: Tensor, d_low: Tensor | None, product: Product
    ) -> Tensor:
        dx = product(dy, self.weight.mT)
        if d_low is not None and self.a is not None:
            dx += product(d_low, self.a.to(dy.dtype).mT)
        return dx


NAMES = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class Layer:
    """One layer's weights as they stand."""

    projections: dict[str, Projection]
    norms: dict[str, tuple[Tensor, float]]
    head_size: int
    scale: float
    is_last: bool

    @property
    def adapters(self) -> list[Tensor]:
        """A and B of each projection that has them, in the order of `NAMES`."""
        found = []
        for name in NAMES:
            projection = self.projections[name]
            if projection.a is not None and projection.b is not None:
                found += [projection.a, projection.b]
        return found


def is_known(layer: Any) -> bool:
    """Whether a transformers layer has the parts that are computed here."""
    if {name for name, _ in layer.named_children()} != LAYER_PARTS:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    of_attention = {name for name, _ in attention.named_children()}
    if of_attention not in (ATTENTION_PARTS, ATTENTION_PARTS | NORM_PARTS):
        return False
    if {name for name, _ in mlp.named_children()} != MLP_PARTS:
        return False
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(attention, name) for name in of_attention & NORM_PARTS]
    linears = [getattr(attention, name) for name in ATTENTION_PARTS]
    linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    sizes = (attention.head_dim, getattr(attention, "scaling", None))
    return (
        all(_epsilon(norm) is not None for norm in norms)
        and all(_is_plain(linear) for linear in linears)
        and all(size is not None for size in sizes)
        and isinstance(mlp.act_fn, torch.nn.SiLU | _silu_classes())
    )


def _silu_classes() -> Any:
    from transformers.activations import ACT2FN

    return type(ACT2FN["silu"])


def _epsilon(norm: Any) -> float | None:
    names = [name for name, _ in norm.named_parameters()]
    if names != ["weight"] or getattr(norm, "bias", None) is not None:
        return None
    for name in ("variance_epsilon", "eps"):
        if isinstance(getattr(norm, name, None), float):
            return float(getattr(norm, name))
    return None


def _is_plain(linear: Any) -> bool:
    """A frozen linear layer, bare or with one LoRA adapter without dropout."""
    base = linear
    if isinstance(linear, LoraLinear):
        base = linear.base_layer
        if len(linear.active_adapters) != 1 or linear.merged:
            return False
        name = linear.active_adapters[0]
        if name in linear.lora_A and (
            linear.use_dora.get(name)
            or linear.lora_bias.get(name)
            or getattr(linear.lora_dropout[name], "p", 0.0) > 0
            or getattr(linear, "lora_variant", {}).get(name) is not None
        ):
            return False
    return type(base) is torch.nn.Linear and not base.weight.requires_grad


def _projection(linear: Any) -> Projection:
    if not isinstance(linear, LoraLinear):
        return Projection(linear.weight, linear.bias, None, None, 1.0)
    wrapped: Any = linear
    base, name = wrapped.base_layer, wrapped.active_adapters[0]
    if wrapped.disable_adapters or name not in wrapped.lora_A:
        return Projection(base.weight, base.bias, None, None, 1.0)
    a, b = wrapped.lora_A[name].weight, wrapped.lora_B[name].weight
    return Projection(base.weight, base.bias, a, b, float(wrapped.scaling[name]))


def read_layer(layer: Any, is_last: bool) -> Layer:
    """The layer's weights, and its adapter's unless that is disabled."""
    attention, mlp = layer.self_attn, layer.mlp
    modules = {name: getattr(attention, f"{name}_proj") for name in "qkvo"}
    modules |= {name: getattr(mlp, f"{name}_proj") for name in ("gate", "up", "down")}
    norms = {"in": layer.input_layernorm, "post": layer.post_attention_layernorm}
    if hasattr(attention, "q_norm"):
        norms |= {"q": attention.q_norm, "k": attention.k_norm}
    return Layer(
        projections={name: _projection(module) for name, module in modules.items()},
        norms={n: (norm.weight, _epsilon(norm) or 0.0) for n, norm in norms.items()},
        head_size=attention.head_dim,
        scale=float(attention.scaling),
        is_last=is_last,
    )

"""Matrix products of linear layers: oneDNN's in float32 on a CPU, torch's elsewhere.

On processors without Intel's name torch's own float32 product (MKL) reaches less than
half of what oneDNN does (AMD Zen 5, one thread: 110 against 245 GFLOP/s), and torch
has no public switch. Leaves out bfloat16, where torch uses oneDNN already.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]
"""(x (T, K), w (N, K)) → x wᵀ (T, N). `w` is contiguous or the transpose of that."""


def plain_product(x: Tensor, w: Tensor) -> Tensor:
    """torch's own."""
    return torch.nn.functional.linear(x, w)


def onednn_product(x: Tensor, w: Tensor) -> Tensor:
    """oneDNN's, through an operator that torch keeps for its compiler."""
    return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")


def pick_product(
    device: torch.device, dtype: torch.dtype, fast: bool = True
) -> Product:
    """The product for a run: a fixed rule, so that a resumed run takes the same.

    oneDNN's for float32 on a CPU if this torch has it and it gives the right numbers.
    """
    if fast and device.type == "cpu" and dtype == torch.float32 and _works():
        return onednn_product
    return plain_product


def _works() -> bool:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 48, generator=generator)
    w = torch.randn(24, 48, generator=generator)
    dy = torch.randn(40, 24, generator=generator)
    try:
        pairs = [
            (onednn_product(x, w), x.double() @ w.double().T),
            (onednn_product(dy, w.T), dy.double() @ w.double()),
            (onednn_product(dy.T, x.T), dy.double().T @ x.double()),
            (onednn_product(x[8:], w[:16]), x[8:].double() @ w[:16].double().T),
        ]
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    return all(
        got.shape == wanted.shape
        and got.dtype == torch.float32
        and bool(((got - wanted).abs() <= 1e-5 * wanted.abs().max()).all())
        for got, wanted in pairs
    )

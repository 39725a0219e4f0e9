"""Log-probabilities of given tokens from hidden states, and what TRL logs of them.

The logits of the whole batch never exist: the head runs over some states at a time.
Leaves out heads that are no matrix (adaptive softmax, mixtures).
"""

from typing import Any

import torch
from torch import Tensor

from training.dpo.linear import Product

LOGITS_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Numbers in one block of logits: what stays in a CPU's cache, or feeds a GPU."""

LEAST_STATES = 128
"""States in one block at least: each block reads the whole head."""


def logit_transform(model_config: Any) -> tuple[float, float | None]:
    """(factor, softcap) that the model applies to its logits.

    Families name the factor differently: `logit_scale` (Cohere), `lm_head_multiplier`
    (Falcon-H1), `logits_scaling` (Granite, a divisor).
    """
    text = model_config.get_text_config()
    softcap = getattr(text, "final_logit_softcapping", None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(text, name, None) is not None:
            return float(getattr(text, name)), softcap
    divisor = getattr(text, "logits_scaling", None)
    if divisor is not None:
        multiplies = text.model_type == "hyperclovax"
        return float(divisor if multiplies else 1 / divisor), softcap
    return 1.0, softcap


class HeadLogps(torch.autograd.Function):
    """log softmax(head(h))[target] with its gradient taken in the same pass.

    With a frozen head, d logp/dh = sᵀW for s = (onehot(target) − softmax) times the
    derivative of scale and softcap, whatever the loss does with logp later. Computing
    it while the block of logits is at hand saves the backward pass over the vocabulary
    and every saved logit: two matrix products instead of three. A head that trains
    needs the loss's derivative first: its logits are computed again, block by block.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        product: Product,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """hidden (T, H), weight (V, H), targets (T,) → four tensors (T,): log-probs,
        entropy, mean logit (float32), and whether the target comes first (bool)."""
        ctx.how = (scale, softcap, product)
        trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        wants = ctx.needs_input_grad[0] and not trains
        gradient = torch.empty_like(hidden) if wants else None
        columns: list[tuple[Tensor, ...]] = []
        for part in _blocks(hidden, weight):
            target = targets[part, None]
            logits, slope = _logits(hidden[part], weight, bias, *ctx.how)
            top = logits.amax(dim=-1)
            mean_logit = logits.mean(dim=-1)
            wanted = logits.gather(1, target)[:, 0]
            p = torch.softmax(logits, dim=-1)
            # The sum of exp(logit − top) is 1 / (the largest probability).
            log_sum = p.amax(dim=-1).log_().neg_()
            logps = (wanted - top) - log_sum
            entropy = (top + log_sum) - torch.linalg.vecdot(p, logits)
            is_top1 = wanted == top
            rows = is_top1.nonzero()[:, 0]
            # Of equal logits the first counts.
            is_top1[rows] = logits[rows].argmax(dim=-1) == targets[part][rows]
            columns.append((logps, entropy, mean_logit, is_top1))
            if gradient is not None:
                ones = torch.ones_like(target, dtype=p.dtype)
                s = _through(p.neg_().scatter_add_(1, target, ones), slope, scale)
                gradient[part] = product(s.to(weight.dtype), weight.mT)
        logps, entropy, mean_logit, is_top1 = (
            torch.cat(c) for c in zip(*columns, strict=True)
        )
        ctx.mark_non_differentiable(entropy, mean_logit, is_top1)
        if trains:
            ctx.save_for_backward(hidden, weight, bias, targets)
        elif gradient is not None:
            ctx.save_for_backward(gradient)
        return logps, entropy, mean_logit, is_top1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Scale the stored direction by the loss's derivative with respect to logp."""
        if len(ctx.saved_tensors) == 1:
            (direction,) = ctx.saved_tensors
            d_hidden = (grads[0][:, None] * direction).to(direction.dtype)
            return d_hidden, None, None, None, None, None, None
        return *_trained_head(ctx, grads[0]), None, None, None, None


def _trained_head(
    ctx: Any, upstream: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden, weight and bias; sums over blocks are float32."""
    hidden, weight, bias, targets = ctx.saved_tensors
    scale, softcap, product = ctx.how
    needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    d_hidden = torch.empty_like(hidden) if needs_hidden else None
    d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
    d_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
    for part in _blocks(hidden, weight):
        target = targets[part, None]
        logits, slope = _logits(hidden[part], weight, bias, scale, softcap, product)
        s = torch.softmax(logits, dim=-1).neg_()
        s.scatter_add_(1, target, torch.ones_like(target, dtype=s.dtype))
        s = _through(s.mul_(upstream[part, None]), slope, scale)
        if d_bias is not None:
            d_bias += s.sum(dim=0)
        s = s.to(weight.dtype)
        if d_hidden is not None:
            d_hidden[part] = product(s, weight.mT)
        if d_weight is not None:
            d_weight += product(s.mT, hidden[part].mT)
    return (
        d_hidden,
        d_weight.to(weight.dtype) if d_weight is not None else None,
        d_bias.to(bias.dtype) if d_bias is not None else None,
    )


def _blocks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(LEAST_STATES, LOGITS_AT_ONCE[hidden.device.type] // weight.shape[0])
    size -= size % LEAST_STATES
    return [slice(at, at + size) for at in range(0, len(hidden), size)]


def _logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    product: Product,
) -> tuple[Tensor, Tensor | None]:
    """(logits float32, derivative of the softcap or None)."""
    logits = product(hidden, weight)
    if bias is not None:
        logits += bias
    logits = logits.float()
    if scale != 1.0:
        logits.mul_(scale)
    if softcap is None:
        return logits, None
    logits.div_(softcap).tanh_()
    slope = 1 - logits.square()
    return logits.mul_(softcap), slope


def _through(s: Tensor, slope: Tensor | None, scale: float) -> Tensor:
    if slope is not None:
        s.mul_(slope)
    return s.mul_(scale) if scale != 1.0 else s

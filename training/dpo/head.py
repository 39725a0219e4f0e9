"""Log-probabilities of given tokens from hidden states, and what TRL logs of them.

The logits of the whole batch never exist: the head runs over some states at a time.
Leaves out heads that are no matrix (adaptive softmax, mixtures).
"""

from typing import Any

import torch
from torch import Tensor

from training.dpo.linear import Product

LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Numbers in one block of logits: what stays in a CPU's cache, or feeds a GPU."""

LEAST_TOKENS, LEAST_STATES = 1024, 64
"""In one block at least, and a multiple of it: each block of the vocabulary reads all
states, each block of states the whole head."""


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


class _Sums:
    """What is known of T softmaxes after some blocks of the vocabulary: (T,) each.

    top, log_sum: the largest logit, and log Σ exp(logit − top). expected: Σ p·logit.
    direction (T, H): Σ p·slope·weight, if wanted. `slope` is the softcap's derivative.
    """

    def __init__(self, hidden: Tensor, wants_direction: bool) -> None:
        nothing = hidden.new_zeros(len(hidden), dtype=torch.float32)
        self.top = self.log_sum = nothing - torch.inf
        self.expected = self.total = self.wanted = nothing
        self.target_slope = nothing + 1
        self.is_top1 = nothing > 0
        self.direction = None
        if wants_direction:
            self.direction = torch.zeros_like(hidden, dtype=torch.float32)

    def add(
        self,
        logits: Tensor,
        slope: Tensor | None,
        places: Tensor,
        weight: Tensor,
        product: Product,
    ) -> None:
        """`logits` (T, V'), `weight` (V', H); `places`: of the targets in the block, if
        they are in it."""
        p = torch.softmax(logits, dim=-1)
        highest = logits.amax(dim=-1)
        # The sum of exp(logit − highest) is 1 / (the largest probability).
        block_sum = p.amax(dim=-1).log_().neg_()
        self._see_targets(logits, slope, places, highest)
        top = torch.maximum(self.top, highest)
        before = self.log_sum + (self.top - top)
        block_sum += highest - top
        self.log_sum = torch.logaddexp(before, block_sum)
        self.top = top
        kept, share = (before - self.log_sum).exp_(), (block_sum - self.log_sum).exp_()
        self.total = self.total + logits.sum(dim=-1)
        self.expected = kept * self.expected + share * torch.linalg.vecdot(p, logits)
        if self.direction is not None:
            if slope is not None:
                p.mul_(slope)
            found = product(p.to(weight.dtype), weight.mT)
            self.direction.mul_(kept[:, None]).addcmul_(share[:, None], found.float())

    def _see_targets(
        self, logits: Tensor, slope: Tensor | None, places: Tensor, highest: Tensor
    ) -> None:
        is_here = (places >= 0) & (places < logits.shape[1])
        index = places.clamp(0, logits.shape[1] - 1)[:, None]
        here = logits.gather(1, index)[:, 0]
        self.wanted = torch.where(is_here, here, self.wanted)
        if slope is not None:
            steep = slope.gather(1, index)[:, 0]
            self.target_slope = torch.where(is_here, steep, self.target_slope)
        # Of equal logits the first counts: those of earlier blocks, then by place.
        leads = is_here & (here == highest)
        if not leads.is_cpu:
            leads &= logits.argmax(dim=-1) == places
        else:
            # Few rows: a CPU takes long over all, a GPU would have to wait for which.
            rows = leads.nonzero()[:, 0]
            leads[rows] = logits[rows].argmax(dim=-1) == places[rows]
        higher = highest > self.top
        self.is_top1 = torch.where(higher, leads, self.is_top1)


class HeadLogps(torch.autograd.Function):
    """log softmax(head(h))[target] with its gradient taken in the same pass.

    With a frozen head, d logp/dh = sᵀW for s = (onehot(target) − softmax) times the
    derivative of scale and softcap, whatever the loss does with logp later. Summing
    softmaxᵀW block by block over the vocabulary, each block's share scaled as the
    largest logit and the sum of exponentials become known (the online softmax of
    https://arxiv.org/abs/1805.02867), saves the backward pass over the vocabulary and
    every saved logit: two matrix products instead of three. A head that trains needs
    the loss's derivative first: its logits are computed again, block by block.
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
        sums = _Sums(hidden, wants)
        for part in _blocks(hidden, weight):
            block = weight[part]
            logits, slope = _logits(
                hidden, block, None if bias is None else bias[part], *ctx.how
            )
            sums.add(logits, slope, targets - part.start, block, product)
        logps = (sums.wanted - sums.top) - sums.log_sum
        entropy = (sums.top + sums.log_sum) - sums.expected
        mean_logit = sums.total / len(weight)
        ctx.mark_non_differentiable(entropy, mean_logit, sums.is_top1)
        if trains:
            ctx.save_for_backward(hidden, weight, bias, targets)
        elif sums.direction is not None:
            to_target = weight[targets] * sums.target_slope[:, None]
            direction = (to_target - sums.direction).mul_(scale)
            ctx.save_for_backward(direction.to(hidden.dtype))
        return logps, entropy, mean_logit, sums.is_top1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Scale the stored direction by the loss's derivative with respect to logp."""
        if len(ctx.saved_tensors) == 1:
            (direction,) = ctx.saved_tensors
            d_hidden = (grads[0][:, None] * direction).to(direction.dtype)
            return d_hidden, None, None, None, None, None, None
        return *_trained_head(ctx, grads[0]), None, None, None, None


def unlikely_mass(
    policy: Tensor,
    base: Tensor,
    limit: float,
    weight: Tensor,
    bias: Tensor | None,
    *how: Any,
) -> tuple[Tensor, Tensor]:
    """Of T pairs of states (T, H): Σ p(v) and Σ q(v) over the tokens v with q(v) < limit,
    p = softmax(head(policy)), q = softmax(head(base)): (T,), (T,).

    Exact; the vocabulary is gone through twice, since q is not known before its end.
    """
    parts = _blocks(policy, weight)

    def logits(hidden: Tensor, part: slice) -> Tensor:
        here = None if bias is None else bias[part]
        return _logits(hidden, weight[part], here, *how)[0]

    def log_sum(hidden: Tensor) -> Tensor:
        sums = [torch.logsumexp(logits(hidden, part), dim=-1) for part in parts]
        return torch.logsumexp(torch.stack(sums), dim=0)[:, None]

    of_policy, of_base = log_sum(policy), log_sum(base)
    found = [of_policy.new_zeros(len(policy)), of_policy.new_zeros(len(policy))]
    for part in parts:
        q = (logits(base, part) - of_base).exp_()
        p = (logits(policy, part) - of_policy).exp_()
        is_unlikely = q < limit
        found[0] += (p * is_unlikely).sum(dim=-1)
        found[1] += (q * is_unlikely).sum(dim=-1)
    return found[0], found[1]


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
    for part in _state_blocks(hidden, weight):
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
    """Of the vocabulary."""
    return _slices(len(weight), len(hidden), LEAST_TOKENS, hidden.device)


def _state_blocks(hidden: Tensor, weight: Tensor) -> list[slice]:
    """Of the states, for a head that trains: it needs whole softmaxes."""
    return _slices(len(hidden), len(weight), LEAST_STATES, hidden.device)


def _slices(count: int, width: int, least: int, device: torch.device) -> list[slice]:
    size = least * max(1, LOGITS_AT_ONCE[device.type] // max(1, width) // least)
    return [slice(at, at + size) for at in range(0, count, size)]


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

"""Log-probabilities of answers under a causal language model, and what TRL logs of them.

The backbone runs over rows of like length padded on the right; with a causal model
nothing after a token reaches it, so no attention mask is needed. The head runs over answer positions
only, some at a time: logits of the whole batch never exist. Leaves out the loss, the
reference and encoder-decoder models.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.dpo.batches import (
    Layout,
    Row,
    length_groups,
    micro_batches,
    pair_rows,
    rows_of,
)
from training.dpo.data import Pair
from training.dpo.distributed import gathered, my_share
from training.dpo.full import trained_head_logps
from training.dpo.sharding import is_sharded
from training.dpo.sharding import run as run_gathered

LOGITS_AT_ONCE = 1 << 24
"""Numbers in one block of logits (64 MiB in float32)."""

CALL_TOKENS = {"cpu": 64, "cuda": 4096}
"""What one more call of the backbone costs, in tokens run through it."""


@dataclass
class RowScores:
    """Scores of N rows, T answer tokens in all.

    `token_logps` (T,) float32, row after row; differentiable. `lengths`: answer tokens
    of each row. `entropy` and `mean_logit` (T,) float32 and `is_top1` (T,) bool carry
    no gradient.
    """

    token_logps: Tensor
    lengths: list[int]
    entropy: Tensor
    mean_logit: Tensor
    is_top1: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """Sum token values (T,) over each row: (N,)."""
        # A loop over few rows, because index_add is not deterministic on GPUs.
        if not self.lengths:
            return values
        return torch.stack([part.sum() for part in values.split(self.lengths)])

    def none(self) -> "RowScores":
        """The scores of none of the rows, still leading back to the model."""
        columns = (self.token_logps, self.entropy, self.mean_logit, self.is_top1)
        logps, entropy, mean_logit, is_top1 = (column[:0] for column in columns)
        return RowScores(logps, [], entropy, mean_logit, is_top1)

    @property
    def logps(self) -> Tensor:
        """Summed log-probability of each row's answer: (N,), differentiable."""
        return self.sums(self.token_logps)

    def pair_logps(self, ld_alpha: float | None) -> tuple[Tensor, Tensor]:
        """Of rows that are chosen sides, then rejected sides: their sums (B,), (B,).

        With `ld_alpha`, tokens beyond the shorter side's length count that much.
        """
        if not self.lengths:
            return self.token_logps, self.token_logps
        half = len(self.lengths) // 2
        shared = [
            min(pair)
            for pair in zip(self.lengths[:half], self.lengths[half:], strict=True)
        ]
        rows = zip(self.token_logps.split(self.lengths), shared * 2, strict=True)
        sums = torch.stack([answer_sum(row, short, ld_alpha) for row, short in rows])
        return sums[:half], sums[half:]


def answer_sum(token_logps: Tensor, shared: int, ld_alpha: float | None) -> Tensor:
    """Sum of an answer's log-probs (tokens,), as the losses take it: ().

    LD-DPO, arXiv 2409.06411: tokens beyond the first `shared` (the length of the pair's
    shorter answer) count `ld_alpha` each; None: all count 1.
    """
    if ld_alpha is None:
        return token_logps.sum()
    return token_logps[:shared].sum() + ld_alpha * token_logps[shared:].sum()


@dataclass(frozen=True)
class Engine:
    """Runs rows through a model; made once, at the start of a run.

    `model` is a PEFT model (its adapter counts unless disabled) or a transformers
    causal LM.
    """

    model: Any
    layout: Layout

    @property
    def causal_lm(self) -> Any:
        """The transformers model, whose layers hold the adapter if there is one."""
        peft_model = hasattr(self.model, "get_base_model")
        return self.model.get_base_model() if peft_model else self.model

    def split(self, items: Sequence[Sequence[Row]]) -> list[list[int]]:
        """Positions of the items of each forward pass.

        An item is the rows that must share a pass: both sides of a pair, or one row.
        Of several processes each gets its share; passes over nothing (empty lists) are
        added where all must make as many.
        """
        mine = my_share([sum(len(row.ids) for row in rows) for rows in items])
        passes = micro_batches(
            [items[place] for place in mine],
            self.layout.max_tokens,
            self.layout.max_pairs,
        )
        shared = [[mine[place] for place in places] for places in passes]
        if is_sharded(self.causal_lm):
            shared += [[]] * (max(gathered(len(shared))) - len(shared))
        return shared

    def split_pairs(
        self, pairs: Sequence[Pair], indexes: Sequence[int]
    ) -> list[list[int]]:
        """Of the pairs at `indexes`, the indexes of those in each forward pass."""
        passes = self.split([pair_rows(pairs[index]) for index in indexes])
        return [[indexes[place] for place in places] for places in passes]

    def score(self, rows: Sequence[Row]) -> RowScores:
        """Score the answers of any number of rows in one forward pass.

        With no rows a sharded model still makes one, for the other processes' sake.
        """
        if not is_sharded(self.causal_lm):
            return score_rows(self.causal_lm, rows, self.layout.pad_id)
        scored = list(rows) or [Row([self.layout.pad_id] * 2, 1)]

        def score(model: Any) -> tuple[Tensor, RowScores]:
            # One group: every process must call each layer as often as the others.
            scores = score_rows(model, scored, self.layout.pad_id, call_tokens=1 << 40)
            return scores.token_logps, scores

        scores = run_gathered(self.causal_lm, score)[1]
        return scores if rows else scores.none()


def score_rows(
    model: Any, rows: Sequence[Row], pad_id: int, call_tokens: int | None = None
) -> RowScores:
    """Score the answers of `rows` with `model` (a transformers causal LM).

    An answer token is scored if a token precedes it. Gradients reach the backbone;
    the head is taken as frozen. `call_tokens`: what one more call costs, else as usual.
    """
    device = model.get_input_embeddings().weight.device
    starts = [max(row.prompt_length, 1) for row in rows]
    lengths = [len(row.ids) - start for row, start in zip(rows, starts, strict=True)]
    hidden: list[Tensor | None] = [None] * len(rows)
    for group in length_groups(
        [len(row.ids) for row in rows], call_tokens or CALL_TOKENS[device.type]
    ):
        longest = max(len(rows[index].ids) for index in group)
        padded = [
            rows[index].ids + [pad_id] * (longest - len(rows[index].ids))
            for index in group
        ]
        states = model.base_model(
            input_ids=torch.tensor(padded, device=device), use_cache=False
        ).last_hidden_state
        for place, index in enumerate(group):
            # The state before a token predicts it.
            before = slice(starts[index] - 1, len(rows[index].ids) - 1)
            hidden[index] = states[place, before]
    targets = [
        token
        for row, start in zip(rows, starts, strict=True)
        for token in row.ids[start:]
    ]
    head = model.get_output_embeddings()
    scale, softcap = logit_transform(model.config)
    inputs = (
        torch.cat([part for part in hidden if part is not None]),
        head.weight,
        getattr(head, "bias", None),
        torch.tensor(targets, device=device),
        scale,
        softcap,
    )
    if torch.is_grad_enabled() and head.weight.requires_grad:
        block = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
        columns = trained_head_logps(*inputs, block)
    else:
        columns = HeadLogps.apply(*inputs)
    token_logps, entropy, mean_logit, is_top1 = columns
    return RowScores(token_logps, lengths, entropy, mean_logit, is_top1)


def score_set(
    engine: Engine, pairs: Sequence[Pair], each: Callable[[int], None]
) -> Iterator[tuple[list[int], RowScores]]:
    """Yield (indexes, scores of their rows) without gradients.

    `each` is called before every forward pass with the number of pairs done.
    """
    done = 0
    for indexes in engine.split_pairs(pairs, range(len(pairs))):
        each(done)
        with torch.no_grad():
            scores = engine.score(rows_of([pairs[index] for index in indexes]))
        yield indexes, scores
        done += len(indexes)


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
    and every saved logit: two matrix products instead of three.
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """hidden (T, H), weight (V, H), targets (T,) → four tensors (T,)."""
        wants_gradient = ctx.needs_input_grad[0]
        block = max(1, LOGITS_AT_ONCE // weight.shape[0])
        gradient = torch.empty_like(hidden) if wants_gradient else None
        columns: list[tuple[Tensor, ...]] = []
        for start in range(0, len(targets), block):
            part = slice(start, start + block)
            target = targets[part, None]
            logits = torch.nn.functional.linear(hidden[part], weight, bias).float()
            if scale != 1.0:
                logits.mul_(scale)
            if softcap is not None:
                logits.div_(softcap).tanh_()
                slope = 1 - logits.square()
                logits.mul_(softcap)
            mean_logit = logits.mean(dim=-1)
            is_top1 = logits.argmax(dim=-1) == targets[part]
            logits.sub_(logits.logsumexp(dim=-1, keepdim=True))
            logps = logits.gather(1, target)[:, 0]
            probabilities = logits.exp()
            entropy = -(probabilities * logits).sum(dim=-1)
            columns.append((logps, entropy, mean_logit, is_top1))
            if gradient is not None:
                direction = probabilities.neg_()
                ones = torch.ones_like(target, dtype=direction.dtype)
                direction.scatter_add_(1, target, ones)
                if softcap is not None:
                    direction.mul_(slope)
                if scale != 1.0:
                    direction.mul_(scale)
                gradient[part] = direction.to(weight.dtype) @ weight
        logps, entropy, mean_logit, is_top1 = (
            torch.cat(c) for c in zip(*columns, strict=True)
        )
        ctx.mark_non_differentiable(entropy, mean_logit, is_top1)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return logps, entropy, mean_logit, is_top1

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Scale the stored direction by the loss's derivative with respect to logp."""
        (direction,) = ctx.saved_tensors
        grad = (grads[0][:, None] * direction).to(direction.dtype)
        return grad, None, None, None, None, None

"""Log-probabilities of answers under a causal language model, and what TRL logs of them.

One forward pass takes any number of rows. Three ways lead to the states that predict
the answers, from the thriftiest to the one that suits every model:

- "fused": the rows as a tree of shared beginnings, through our own layers;
- "tree": the same tree through transformers' layers, with our attention;
- "rows": rows of like length padded on the right, through transformers as it is; with
  a causal model nothing after a token reaches it, so no attention mask is needed.

The head then runs over these states alone. `check.py` chooses the way. Leaves out the
loss, the reference and encoder-decoder models.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.dpo.adapter import without_adapter
from training.dpo.batches import (
    Layout,
    Row,
    length_groups,
    micro_batches,
    pair_rows,
    rows_of,
    tree_batches,
)
from training.dpo.config import Savings
from training.dpo.data import Pair
from training.dpo.distributed import gathered, my_share
from training.dpo.head import HeadLogps, logit_transform, unlikely_mass
from training.dpo.lanes import side_by_side
from training.dpo.layers import Holder
from training.dpo.linear import pick_product
from training.dpo.machine import on_device
from training.dpo.positions import changes_at
from training.dpo.recompute import recomputing
from training.dpo.sharding import backbone, is_sharded
from training.dpo.sharding import run as run_gathered
from training.dpo.tree import LEAST_SAVED, Tree, build_tree
from training.dpo.tree_attention import (
    STATE_STEP,
    attention_way,
    named_attention,
    packed_length,
    plan_pass,
    tree_attention,
)

Part = TypeVar("Part")
Result = TypeVar("Result")

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
    causal LM. `kind`: "fused", "tree" or "rows"; `why`: the reason for it.
    `keeps_input_only`: layers compute again for the backward pass what they would keep.
    Made by hand it is the way that suits every model; see `check.make_engine`.
    """

    model: Any
    layout: Layout
    kind: str = "rows"
    why: str = "not chosen"
    savings: Savings = field(default_factory=Savings)
    keeps_input_only: bool = False
    holder: Holder = field(default_factory=Holder)

    @property
    def causal_lm(self) -> Any:
        """The transformers model, whose layers hold the adapter if there is one."""
        peft_model = hasattr(self.model, "get_base_model")
        return self.model.get_base_model() if peft_model else self.model

    @property
    def numerics(self) -> dict[str, Any]:
        """What rounding depends on, for summary.json and the keys of caches."""
        chosen = {"kind": self.kind, "checkpointing": self.keeps_input_only}
        return chosen | asdict(self.layout) | {"savings": asdict(self.savings)}

    def split(self, items: Sequence[Sequence[Row]]) -> list[list[int]]:
        """Positions of the items of each forward pass.

        An item is the rows that must share a pass: both sides of a pair, or one row.
        Of several processes each gets its share; passes over nothing (empty lists) are
        added where all must make as many.
        """
        mine = my_share([sum(len(row.ids) for row in rows) for rows in items])
        mine_items = [items[place] for place in mine]
        budget = (self.layout.max_tokens, self.layout.max_pairs)
        if self.kind == "rows":
            passes = micro_batches(mine_items, *budget)
        else:
            least = LEAST_SAVED if self.savings.share_prefixes else None
            passes = tree_batches(mine_items, *budget, least, self.lanes)
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

        An answer token is scored if a token precedes it. Gradients reach what trains.
        With no rows a sharded model still makes one, for the other processes' sake.
        """
        if not is_sharded(self.causal_lm):
            return self._scored(self.causal_lm, rows)
        scored = list(rows) or [Row([self.layout.pad_id] * 2, 1)]

        def score(model: Any) -> tuple[Tensor, RowScores]:
            # One group: every process must call each layer as often as the others.
            scores = self._scored(model, scored, call_tokens=1 << 40)
            return scores.token_logps, scores

        scores = run_gathered(self.causal_lm, score)[1]
        return scores if rows else scores.none()

    @property
    def lanes(self) -> int:
        """Passes that run at once; only our own layers share nothing but weights."""
        return self.layout.lanes if self.kind == "fused" else 1

    def each(
        self, function: Callable[[Part], Result], parts: Sequence[Part]
    ) -> Iterator[Result]:
        """Yield `function(part)` of each part; each makes one forward pass at a time."""
        at_once = named_attention(self.causal_lm) if self.lanes > 1 else nullcontext()
        with at_once:
            yield from side_by_side(function, parts, self.lanes)

    def score_each(self, passes: Sequence[Sequence[Row]]) -> Iterator[RowScores]:
        """Yield the scores of each forward pass's rows, without gradients."""

        def score(rows: Sequence[Row]) -> RowScores:
            # Not around the loop: what holds there holds for whoever takes the scores.
            with torch.no_grad():
                return self.score(rows)

        yield from self.each(score, passes)

    def _scored(
        self, model: Any, rows: Sequence[Row], call_tokens: int | None = None
    ) -> RowScores:
        states, tree = self._states(model, rows, call_tokens)
        device = states.device
        spare = len(states) - len(tree.targets)
        targets = on_device(tree.targets + [0] * spare, device)
        weight, bias, *how = self._head(model, states)
        columns = HeadLogps.apply(states, weight, bias, targets, *how)
        if tree.owners != list(range(len(states))):
            owners = on_device(tree.owners, device)
            columns = tuple(column[owners] for column in columns)
        token_logps, entropy, mean_logit, is_top1 = columns
        return RowScores(token_logps, tree.lengths, entropy, mean_logit, is_top1)

    def _states(
        self, model: Any, rows: Sequence[Row], call_tokens: int | None = None
    ) -> tuple[Tensor, Tree]:
        """States that predict the answers, in the head's dtype: Mamba keeps float32."""
        if self.kind == "rows":
            with self._recomputing(model):
                states, tree = _row_states(model, rows, self.layout.pad_id, call_tokens)
        else:
            states, tree = self._tree_states(rows)
        return states.to(model.get_output_embeddings().weight.dtype), tree

    def _head(self, model: Any, states: Tensor) -> tuple[Any, ...]:
        """Weight, bias, scale, softcap and product: what `head.py` takes of a head."""
        head = model.get_output_embeddings()
        fast = self.kind != "rows" and self.savings.fast_products
        product = pick_product(states.device, states.dtype, fast)
        bias = getattr(head, "bias", None)
        return head.weight, bias, *logit_transform(model.config), product

    def unlikely(self, rows: Sequence[Row], limit: float) -> tuple[Tensor, Tensor]:
        """At each answer token's place, what the policy and the base give together to
        all tokens that the base gives less than `limit` each: (T,), (T,).

        No gradients. Not of a sharded model, nor of a fully fine-tuned one, whose base
        is gone.
        """
        model = self.causal_lm
        with torch.no_grad():
            states, tree = self._states(model, rows)
            with without_adapter(self.model):
                base, _ = self._states(model, rows)
            found = unlikely_mass(states, base, limit, *self._head(model, states))
        owners = on_device(tree.owners, states.device)
        return found[0][owners], found[1][owners]

    def _recomputing(
        self, model: Any, again: Callable[[], Any] = nullcontext
    ) -> AbstractContextManager[None]:
        """Our own layers see to it themselves."""
        needed = self.keeps_input_only and torch.is_grad_enabled()
        if not needed or self.kind == "fused":
            return nullcontext()
        return recomputing(model, again)

    def _tree_states(self, rows: Sequence[Row]) -> tuple[Tensor, Tree]:
        """States (U', H) that predict the tree's U ≤ U' distinct answer tokens."""
        model, savings = self.causal_lm, self.savings
        least = LEAST_SAVED if savings.share_prefixes else None
        tree = build_tree(rows, least)
        device = model.get_input_embeddings().weight.device
        way = attention_way(device.type, savings.split_attention)
        spare = packed_length(len(tree.ids), way) - len(tree.ids)
        ids = on_device(tree.ids + [self.layout.pad_id] * spare, device)
        positions = on_device(tree.positions + [0] * spare, device)
        # The last state again: nobody reads what comes of it.
        wanted = tree.states + tree.states[-1:] * (-len(tree.states) % STATE_STEP)
        fused = self.kind == "fused"
        keeps_last = fused and savings.skip_unscored
        run = plan_pass(tree, wanted if keeps_last else None, model, savings)
        run.keeps_input_only = self.keeps_input_only
        attention = partial(tree_attention, model, self.holder, run, fused)
        with attention() as options, self._recomputing(model, attention):
            states = backbone(model)(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                **options,
            ).last_hidden_state[0]
        if not keeps_last:
            states = states[on_device(wanted, device)]
        return states, tree


def _row_states(
    model: Any, rows: Sequence[Row], pad_id: int, call_tokens: int | None
) -> tuple[Tensor, Tree]:
    """States (T, H) that predict each row's answer tokens, row after row.

    `call_tokens`: what one more call costs, else as usual.
    """
    device = model.get_input_embeddings().weight.device
    starts = [max(row.prompt_length, 1) for row in rows]
    hidden: list[Tensor | None] = [None] * len(rows)
    for group in _padded_together(model, rows, call_tokens):
        longest = max(len(rows[index].ids) for index in group)
        padded = [
            rows[index].ids + [pad_id] * (longest - len(rows[index].ids))
            for index in group
        ]
        ids = on_device([token for row in padded for token in row], device)
        states = backbone(model)(
            input_ids=ids.view(len(group), longest), use_cache=False
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
    lengths = [len(row.ids) - start for row, start in zip(rows, starts, strict=True)]
    owners = list(range(len(targets)))
    tree = Tree([], [], [], owners, targets, owners, lengths)
    return torch.cat([part for part in hidden if part is not None]), tree


def _padded_together(
    model: Any, rows: Sequence[Row], call_tokens: int | None
) -> list[list[int]]:
    """Indexes of the rows of each call."""
    device = model.get_input_embeddings().weight.device
    lengths = [len(row.ids) for row in rows]
    parts = [list(range(len(rows)))]
    first = changes_at(model.config.get_text_config())
    if first is not None and call_tokens is None:
        # A row must not take the positions of a longer one beside it.
        short = [index for index in parts[0] if lengths[index] <= first]
        parts = [short, [index for index in parts[0] if lengths[index] > first]]
    return [
        [part[place] for place in group]
        for part in parts
        for group in length_groups(
            [lengths[index] for index in part], call_tokens or CALL_TOKENS[device.type]
        )
    ]


def score_set(
    engine: Engine, pairs: Sequence[Pair], each: Callable[[int], None]
) -> Iterator[tuple[list[int], RowScores]]:
    """Yield (indexes, scores of their rows) without gradients.

    `each` is called at the start and after every forward pass with the number of pairs
    done.
    """
    done = 0
    parts = engine.split_pairs(pairs, range(len(pairs)))
    passes = [rows_of([pairs[index] for index in indexes]) for indexes in parts]
    each(done)
    for indexes, scores in zip(parts, engine.score_each(passes), strict=True):
        yield indexes, scores
        done += len(indexes)
        each(done)

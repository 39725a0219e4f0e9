"""Floating point operations of one epoch of DPO with LoRA, counted from the pairs.

Two rivals are counted by what they do, ours by what it should do, each with its
reference pass: once over all pairs, without gradients. A multiply and an add count two. A
frozen layer costs its forward pass and one product of the same size backward (no weight
gradient); the adapter's small layers cost the forward pass once and, backward, twice as
much. Attention: 4 · hidden operations forward for each (query, key) that a causal mask
lets through, twice that backward. Leaves out all that is no product of matrices.

TRL 1.16 (`rival`): rows [prompt + answer] of a micro-batch padded to the longest, both
sides of a pair, the prompt twice; the head in three products (logits, logits again in
the backward pass, gradient), on every position without Triton, else on answers.
Ours (`shared`): every distinct prefix of a prompt's sequences within an optimizer step
once, no padding; in the last layer no queries, output and feed-forward for
prompt tokens but the last; the head on answers only, in two products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.material import ModelShape

Row = dict[str, Any]


@dataclass(frozen=True)
class Passed:
    """What goes through the model in one pass: `tokens` through each layer, `seen`
    (query, key) couples in each layer's attention, `heads` positions through the head.

    `spared` tokens need only keys and values of the last layer, and `unseen` couples are
    theirs.
    """

    tokens: int
    seen: int
    heads: int
    spared: int = 0
    unseen: int = 0

    def __add__(self, other: "Passed") -> "Passed":
        return Passed(
            self.tokens + other.tokens,
            self.seen + other.seen,
            self.heads + other.heads,
            self.spared + other.spared,
            self.unseen + other.unseen,
        )


NOTHING = Passed(0, 0, 0)


@dataclass(frozen=True)
class Operations:
    """Floating point operations by where they are spent."""

    body: float
    adapter: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.body + self.adapter + self.attention + self.head

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(
            self.body + other.body,
            self.adapter + other.adapter,
            self.attention + other.attention,
            self.head + other.head,
        )


def padded(rows: Sequence[Row], micro_batch: int, head_everywhere: bool) -> Passed:
    """TRL's rows, `micro_batch` pairs at a time. The last position of a row predicts
    nothing and skips the head."""
    passed = NOTHING
    for part in _batches(rows, micro_batch):
        lengths = [len(ids) for row in part for ids in sequences(row)]
        longest = max(lengths)
        answers = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in part)
        everywhere = len(lengths) * (longest - 1)
        passed += Passed(
            tokens=len(lengths) * longest,
            seen=len(lengths) * _triangle(longest),
            heads=everywhere if head_everywhere else answers,
        )
    return passed


def shared(rows: Sequence[Row], together: int | None = None) -> Passed:
    """Distinct prefixes of `together` successive pairs (all, if None), prompt by prompt."""
    passed = NOTHING
    for part in _batches(rows, together or len(rows)):
        groups: dict[tuple[int, ...], list[Row]] = {}
        for row in part:
            groups.setdefault(tuple(row["prompt_ids"]), []).append(row)
        for group in groups.values():
            passed += _tree(group)
    return passed


def _tree(group: Sequence[Row]) -> Passed:
    """Pairs of one prompt as a tree of tokens; a token at depth d sees d tokens."""
    tokens = seen = 0
    before: list[int] = []
    for ids in sorted(ids for row in group for ids in sequences(row)):
        common = _common(before, ids)
        tokens += len(ids) - common
        seen += _triangle(len(ids)) - _triangle(common)
        before = ids
    spared = max(0, len(group[0]["prompt_ids"]) - 1)
    return Passed(
        tokens=tokens,
        seen=seen,
        heads=sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in group),
        spared=spared,
        unseen=_triangle(spared),
    )


def operations(
    model: ModelShape,
    passed: Passed,
    body: int,
    adapter: int,
    attention: int,
    head: int,
    to_inputs: bool = True,
) -> Operations:
    """Operations of `passed`, each part taken as often as said, in forward passes.

    `to_inputs` False: no gradient of the first layer's inputs, which nobody trains, so
    its q, k and v spare one product each, backward.
    """
    weights = sum(i * o for i, o in model.linears)
    narrow = sum(i + o for i, o in model.linears)
    # q, o, gate, up and down: all but keys and values.
    kept = model.linears[1:3]
    spared = weights - sum(i * o for i, o in kept)
    spared_narrow = narrow - sum(i + o for i, o in kept)
    wide = model.layers * passed.tokens
    couples = model.layers * passed.seen - passed.unseen
    first = [] if to_inputs else model.linears[:3]
    unasked = passed.tokens * sum(i * o for i, o in first)
    unasked_narrow = passed.tokens * sum(i for i, _ in first)
    return Operations(
        body=2.0 * (body * (wide * weights - passed.spared * spared) - unasked),
        adapter=2.0
        * model.rank
        * (adapter * (wide * narrow - passed.spared * spared_narrow) - unasked_narrow),
        attention=4.0 * attention * model.hidden * couples,
        head=2.0 * head * model.hidden * model.vocabulary * passed.heads,
    )


def tuned(
    model: ModelShape, rows: Sequence[Row], micro_batch: int, head_everywhere: bool
) -> Operations:
    """TRL without checkpointing, its reference log-probs computed beforehand."""
    passed = padded(rows, micro_batch, head_everywhere)
    reference = operations(model, passed, body=1, adapter=0, attention=1, head=1)
    return reference + operations(model, passed, 2, 3, 3, 3, to_inputs=False)


def default(
    model: ModelShape, rows: Sequence[Row], micro_batch: int, head_everywhere: bool
) -> Operations:
    """TRL as it comes: every layer's forward pass is run again in the backward pass,
    which goes down to the inputs."""
    passed = padded(rows, micro_batch, head_everywhere)
    reference = operations(model, passed, body=1, adapter=0, attention=1, head=1)
    return reference + operations(model, passed, 3, 4, 4, 3)


def ours(model: ModelShape, rows: Sequence[Row], batch: int) -> Operations:
    """Ours: sharing within an optimizer step, and over all pairs in the reference pass."""
    reference = operations(model, shared(rows), body=1, adapter=0, attention=1, head=1)
    policy = operations(model, shared(rows, batch), 2, 3, 3, 2, to_inputs=False)
    return reference + policy


def products(
    model: ModelShape, rows: Sequence[Row], batch: int, most_heads: int = 512
) -> dict[tuple[int, int, int], float]:
    """{(tokens, inputs, outputs): share of our operations} of the matrix products.

    `tokens`: those of a mean optimizer step; the head takes at most `most_heads` at once.
    Adapter and attention are left out; their time counts all the same.
    """
    steps = -(-len(rows) // batch)
    passed = shared(rows, batch)
    tokens = max(1, passed.tokens // steps)
    heads = max(1, min(most_heads, passed.heads // steps))
    sizes: dict[tuple[int, int, int], float] = {}

    def add(rows_at_once: int, inputs: int, outputs: int, amount: float) -> None:
        key = (rows_at_once, inputs, outputs)
        sizes[key] = sizes.get(key, 0.0) + amount

    for inputs, outputs in model.linears:
        each = model.layers * passed.tokens * inputs * outputs
        # Forward twice (reference, policy), backward once with the sides swapped.
        add(tokens, inputs, outputs, 2 * each)
        add(tokens, outputs, inputs, each)
    each = passed.heads * model.hidden * model.vocabulary
    add(heads, model.hidden, model.vocabulary, 2 * each)
    add(heads, model.vocabulary, model.hidden, each)
    total = sum(sizes.values())
    return {key: amount / total for key, amount in sizes.items()}


def sequences(row: Row) -> list[list[int]]:
    """Both sides of a pair, prompt included."""
    return [row["prompt_ids"] + row[f"{side}_ids"] for side in ("chosen", "rejected")]


def _batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _triangle(length: int) -> int:
    """Couples that a causal mask lets through."""
    return length * (length + 1) // 2


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    same = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        same += 1
    return same

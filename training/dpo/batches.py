"""Which pairs make up which optimizer step, and how a step is laid out in memory.

The order depends on (seed, epoch) alone, so any step can be rebuilt without replaying
the ones before it. Laying out (sorting by length, splitting into forward passes) never
changes which pairs make up a step. Leaves out how a pass shares beginnings; see `tree.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.dpo.config import SEEDS
from training.dpo.data import Pair
from training.dpo.row_tokens import common_length

ALIKE_TOKENS = 2048
"""Up to here a forward pass grows for the sake of a common beginning."""


HALVED = 0.65
"""A pass is split in two for two lanes if neither half has a larger share of its tokens.
What one thread does in 1 s, two on the same pass do in 0.65 s (512 hidden units, 640
tokens, float32, two cores)."""


@dataclass(frozen=True)
class Schedule:
    """The steps of a run: `epochs` passes over `pairs` pairs, `batch_size` a step."""

    pairs: int
    batch_size: int
    epochs: float
    seed: int
    shuffle: bool
    keeps_batches: bool = False
    """Whether an epoch only takes the first epoch's batches in a new order."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass; its last step may be smaller."""
        return math.ceil(self.pairs / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run; a started step is finished."""
        return max(1, math.ceil(self.steps_per_epoch * self.epochs))

    def step_pairs(self, step: int) -> list[int]:
        """Indexes of the pairs of a step counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self.keeps_batches and epoch:
            epoch, within = 0, self._order(self.steps_per_epoch, epoch)[within]
        order = self.epoch_order(epoch)
        return order[within * self.batch_size : (within + 1) * self.batch_size]

    def epoch_order(self, epoch: int) -> list[int]:
        """The order of an epoch counted from 0."""
        return self._order(self.pairs, epoch)

    def first_epoch(self) -> list[list[int]]:
        """The pairs of each of its steps."""
        return [self.step_pairs(step) for step in range(self.steps_per_epoch)]

    def _order(self, count: int, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(count))
        seed = (self.seed * 1_000_003 + epoch) % SEEDS
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(count, generator=generator).tolist()


@dataclass(frozen=True)
class Row:
    """One sequence to score: its ids and how many of them are the prompt."""

    ids: list[int]
    prompt_length: int


def pair_rows(pair: Pair) -> list[Row]:
    """The chosen and the rejected side; of a labelled answer without a stray the first."""
    prompt, sides = pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)
    return [Row(prompt + answer, len(prompt)) for answer in sides if answer]


def rows_of(pairs: Sequence[Pair]) -> list[Row]:
    """All chosen sides, then all rejected sides."""
    sides = [pair_rows(pair) for pair in pairs]
    return [rows[0] for rows in sides] + [row for rows in sides for row in rows[1:]]


def micro_batches(
    items: Sequence[Sequence[Row]], max_tokens: int, max_items: int | None
) -> list[list[int]]:
    """Split `items` into forward passes of items of like length: their positions.

    An item is the rows that must share a pass: both sides of a pair, or one row. A
    pass holds at most `max_tokens` padded tokens, but always at least one item, and at
    most `max_items` items.
    """
    lengths = [max(len(row.ids) for row in rows) for rows in items]
    passes: list[list[int]] = []
    longest = held = 0
    for index in sorted(range(len(items)), key=lambda index: (-lengths[index], index)):
        held += len(items[index])
        full = not passes or held * longest > max_tokens
        if full or (max_items is not None and len(passes[-1]) >= max_items):
            passes.append([])
            longest, held = lengths[index], len(items[index])
        passes[-1].append(index)
    return passes


def tree_batches(
    items: Sequence[Sequence[Row]],
    max_tokens: int,
    max_items: int | None,
    least_saved: int | None,
    lanes: int = 1,
) -> list[list[int]]:
    """Split `items` into forward passes of trees (`tree.py`): their positions.

    Items that begin alike share a pass where there is room. A pass holds at most about
    `max_tokens` tokens, beginnings shared, but always at least one item; one that saves
    a fifth of its tokens by joining may bring it to `room_alike`. `least_saved`: as in
    `tree.build_tree`. Passes are split for the sake of `lanes` that would have none
    (`HALVED`). The longest pass comes first, so that none is left for the end.
    """

    def tokens(places: list[int]) -> int:
        rows = sorted(row.ids for place in places for row in items[place])
        return _new_tokens(rows, [], least_saved)

    order = sorted(range(len(items)), key=lambda index: (items[index][0].ids, index))
    passes: list[list[int]] = []
    laid: list[int] = []
    held = 0
    for index in order:
        rows = sorted(row.ids for row in items[index])
        own = _new_tokens(rows, [], least_saved)
        more = _new_tokens(rows, laid, least_saved)
        pays = 5 * (own - more) >= own
        room = room_alike(max_tokens) if pays else max_tokens
        full = not passes or held + more > room
        if full or (max_items is not None and len(passes[-1]) >= max_items):
            passes.append([])
            held, more = 0, own
        passes[-1].append(index)
        held += more
        laid = rows[-1]
    passes.sort(key=tokens, reverse=True)
    while 0 < len(passes) < lanes:
        first, *others = passes
        halves = [first[: len(first) // 2], first[len(first) // 2 :]]
        if max(map(tokens, halves)) > HALVED * tokens(first):
            break
        passes = sorted([*halves, *others], key=tokens, reverse=True)
    return passes


def room_alike(max_tokens: int) -> int:
    """Tokens of a pass of items that begin alike, instead of `max_tokens`.

    Splitting them would compute their beginning twice. Where `max_tokens` is large
    already a beginning counts for little.
    """
    return max(max_tokens, min(4 * max_tokens, ALIKE_TOKENS))


def _new_tokens(rows: list[list[int]], laid: list[int], least_saved: int | None) -> int:
    """Tokens that sorted rows add to a tree whose last row is `laid`."""
    new = 0
    for ids in rows:
        alike = 0 if least_saved is None else common_length(laid, ids)
        new += len(ids) - (alike if alike >= (least_saved or 0) else 0)
        laid = ids
    return new


@dataclass(frozen=True)
class Layout:
    """How forward passes are laid out in memory; fixed for the whole run."""

    max_tokens: int
    max_pairs: int | None
    pad_id: int
    lanes: int = 1
    """Passes at once, where they can be (`Engine.lanes`)."""


def length_groups(lengths: Sequence[int], call_tokens: int) -> list[list[int]]:
    """Split rows into groups of like length, each to be padded to its longest row.

    Minimises padded tokens plus `call_tokens` for each group (what a further call of
    the model costs, in tokens), by dynamic programming over the rows sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    # Cuts at every row would cost n² for the thousands of short rows a GPU takes.
    stride = max(1, len(order) // 64)
    cuts = [*range(0, len(order), stride), len(order)]
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(cuts)):
        costs = (
            best[start][0]
            + call_tokens
            + (cuts[end] - cuts[start]) * lengths[order[cuts[start]]]
            for start in range(end)
        )
        best.append(min((cost, start) for start, cost in enumerate(costs)))
    groups: list[list[int]] = []
    end = len(cuts) - 1
    while end:
        start = best[end][1]
        groups.append(order[cuts[start] : cuts[end]])
        end = start
    return groups[::-1]

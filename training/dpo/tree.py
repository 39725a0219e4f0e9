"""The rows of one forward pass as a tree of token prefixes, every prefix once.

Under causal attention a token's hidden state depends on the tokens before it alone, so
rows that begin alike share the states of their common beginning: a prompt by both of
its answers, by all pairs of that prompt, the first tokens of answers that begin alike,
a system prompt. The tree is laid out depth first as one packed sequence without
padding; positions restart at every branch. Pure arithmetic on lists: no torch here.
Leaves out how attention follows the tree; see `attention.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.dpo.batches import Row
from training.dpo.row_tokens import common_length

LEAST_SAVED = 16
"""Tokens that sharing a beginning must save to be worth a further segment (its
attention is a call of its own)."""

Range = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """Tokens [start, end) of the packed sequence, a piece of a row without a fork.

    They see themselves causally and all of `before`: [start, end) ranges of their
    ancestors in packed order, neighbours merged.
    """

    start: int
    end: int
    before: tuple[Range, ...]


@dataclass(frozen=True)
class Tree:
    """What a forward pass runs over, and where each row finds its answer in it.

    ids, positions: (P,) the packed sequence, and each token's position in its rows.
    segments: in packed order. states, targets: (U,) each distinct answer token once:
    the packed index of the state that predicts it, in rising order, and its id.
    owners: (T,) which of these U each answer token of each row is, row after row.
    lengths: answer tokens of each row.
    """

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    states: list[int]
    targets: list[int]
    owners: list[int]
    lengths: list[int]


def build_tree(rows: Sequence[Row], least_saved: int | None = LEAST_SAVED) -> Tree:
    """Lay out `rows`; a row's last token predicts nothing and is left out.

    A row of one token has nothing to predict. `least_saved`: tokens that a shared
    beginning must save; None shares nothing, not even between equal rows.
    """
    inputs = [row.ids[:-1] for row in rows]
    ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    # Of each row, the packed index of each of its input tokens.
    places: list[list[int]] = [[] for _ in rows]

    def lay(members: list[int], start: int, end: int, before: list[Range]) -> Range:
        first = len(ids)
        longest = max(members, key=lambda member: len(inputs[member]))
        ids.extend(inputs[longest][start:end])
        positions.extend(range(start, end))
        segments.append(Segment(first, len(ids), _merged(before)))
        for member in members:
            length = min(end, len(inputs[member])) - start
            places[member].extend(range(first, first + length))
        return first, len(ids)

    def grow(members: list[int], start: int, before: list[Range], least: int) -> None:
        """Lay out sorted members, alike until `start`, from there on."""
        common, ended, parts = _fork(inputs, members, start)
        if not parts:
            lay(members, start, common, before)
        elif common == start or (len(parts) - 1) * (common - start) >= least:
            if common > start:
                before = [*before, lay(members, start, common, before)]
            for part in parts:
                grow(part, common, before, least)
        else:
            # Each part begins with its own copy; rows that end before the fork fit any.
            for part in [ended + parts[0], *parts[1:]]:
                grow(part, start, before, least)

    order = [row for row in range(len(rows)) if inputs[row]]
    if least_saved is None:
        for row in order:
            lay([row], 0, len(inputs[row]), [])
    elif order:
        order.sort(key=lambda row: inputs[row])
        grow(order, 0, [], least_saved)
    return _scored(rows, places, ids, positions, segments)


def _fork(
    inputs: list[list[int]], members: list[int], start: int
) -> tuple[int, list[int], list[list[int]]]:
    """(first position where members differ, those ended before it, the rest by token).

    Without a fork the position is the longest member's end and there are no parts.
    """
    common = None
    for one, other in zip(members, members[1:], strict=False):
        alike = common_length(inputs[one], inputs[other], start)
        if alike < min(len(inputs[one]), len(inputs[other])):
            common = alike if common is None else min(common, alike)
    if common is None:
        return max(len(inputs[member]) for member in members), members, []
    ended: list[int] = []
    parts: dict[int, list[int]] = {}
    for member in members:
        if len(inputs[member]) <= common:
            ended.append(member)
        else:
            parts.setdefault(inputs[member][common], []).append(member)
    return common, ended, list(parts.values())


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    merged: list[Range] = []
    for start, end in ranges:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _scored(
    rows: Sequence[Row],
    places: list[list[int]],
    ids: list[int],
    positions: list[int],
    segments: list[Segment],
) -> Tree:
    wanted = [
        (places[index][at - 1], row.ids[at])
        for index, row in enumerate(rows)
        for at in range(max(row.prompt_length, 1), len(row.ids))
    ]
    distinct = sorted(set(wanted))
    number = {pair: index for index, pair in enumerate(distinct)}
    return Tree(
        ids=ids,
        positions=positions,
        segments=segments,
        states=[state for state, _ in distinct],
        targets=[target for _, target in distinct],
        owners=[number[pair] for pair in wanted],
        lengths=[max(0, len(r.ids) - max(r.prompt_length, 1)) for r in rows],
    )

"""Rows as a tree: against what each row says by itself, and counted by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.dpo.batches import Row, tree_batches
from training.dpo.tree import build_tree

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
ROWS = st.lists(
    st.builds(lambda ids, at: Row(ids, min(at, len(ids))), TOKENS, st.integers(0, 12)),
    min_size=1,
    max_size=6,
)


def pasts(tree):
    """{packed index: the tokens it sees, itself last}, by walking the segments."""
    found = {}
    for segment in tree.segments:
        before = [at for start, end in segment.before for at in range(start, end)]
        for at in range(segment.start, segment.end):
            seen = [*before, *range(segment.start, at + 1)]
            assert [tree.positions[one] for one in seen] == list(range(len(seen)))
            found[at] = [tree.ids[one] for one in seen]
    return found


@settings(max_examples=200, deadline=None)
@given(ROWS, st.sampled_from([None, 1, 2, 4, 100]))
def test_every_answer_token_is_predicted_by_a_state_that_saw_its_past(rows, least):
    tree = build_tree(rows, least)
    seen = pasts(tree)
    assert sorted(seen) == list(range(len(tree.ids)))
    wanted = [
        (row.ids[:at], row.ids[at])
        for row in rows
        for at in range(max(row.prompt_length, 1), len(row.ids))
    ]
    found = [(seen[tree.states[u]], tree.targets[u]) for u in tree.owners]
    assert found == wanted
    assert sum(tree.lengths) == len(wanted)
    assert tree.states == sorted(tree.states)
    assert set(tree.owners) == set(range(len(tree.states)))


@given(ROWS)
def test_where_any_sharing_pays_each_beginning_is_there_once(rows):
    tree = build_tree(rows, 1)
    beginnings = {
        tuple(row.ids[:end]) for row in rows for end in range(1, len(row.ids))
    }
    assert len(tree.ids) == len(beginnings)


def test_two_answers_share_their_prompt_and_their_first_tokens():
    """Prompt 1 2 3, answers 4 5 6 and 4 7: 1 2 3 4 together, then 5 (6 predicts
    nothing); the state at 4 predicts 5 and 7, that at 3 predicts 4 for both."""
    tree = build_tree([Row([1, 2, 3, 4, 5, 6], 3), Row([1, 2, 3, 4, 7], 3)], 1)
    assert tree.ids == [1, 2, 3, 4, 5]
    assert [(s.start, s.end, s.before) for s in tree.segments] == [(0, 5, ())]
    assert list(zip(tree.states, tree.targets, strict=True)) == [
        *((2, 4), (3, 5), (3, 7), (4, 6))
    ]
    assert tree.owners == [0, 1, 3, 0, 2]


def test_a_beginning_too_short_to_pay_is_repeated():
    """Three rows with 2 tokens in common: sharing saves 4, which is not 5."""
    rows = [Row([1, 2, token, 9, 9], 2) for token in (3, 4, 5)]
    assert len(build_tree(rows, 4).ids) == 2 + 3 * 2
    assert len(build_tree(rows, 5).ids) == 3 * 4
    assert len(build_tree(rows, None).segments) == 3


def test_pairs_of_one_prompt_share_a_pass():
    """Prompts a, b, a, b of 20 tokens with two answers of 5: a pair takes 30 tokens,
    the next of that prompt 10 more; 40 hold two, four times 9 (the room of what begins
    alike) only one."""
    prompts = [[1] * 20, [2] * 20]

    def pair(number):
        start = prompts[number % 2]
        return [Row([*start, *([10 * side + number] * 5)], 20) for side in (1, 2)]

    items = [pair(number) for number in range(4)]
    assert tree_batches(items, 40, None, 16) == [[0, 2], [1, 3]]
    assert tree_batches(items, 40, 1, 16) == [[0], [2], [1], [3]]
    assert tree_batches(items, 9, None, 16) == [[0], [2], [1], [3]]
    assert tree_batches(items, 100, None, None) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("least", [None, 1])
def test_a_row_of_one_token_has_nothing_to_predict(least):
    tree = build_tree([Row([7], 0), Row([7, 8], 0)], least)
    assert (tree.ids, tree.lengths, tree.targets) == ([7], [0, 1], [8])

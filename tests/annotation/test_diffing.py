"""The word diff: it loses nothing, cuts where writing cuts, and stays quick."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotation.diffing import MOST_CELLS, word_diff, words

CASES = [
    (
        "The quick brown fox jumps",
        "The slow red fox leaps high",
        [
            ("same", "The "),
            ("gone", "quick brown"),
            ("new", "slow red"),
            ("same", " fox "),
            ("gone", "jumps"),
            ("new", "leaps high"),
        ],
    ),
    (
        "水开后煮六分钟",
        "水开后再煮八分钟",
        [
            ("same", "水开后"),
            ("new", "再"),
            ("same", "煮"),
            ("gone", "六"),
            ("new", "八"),
            ("same", "分钟"),
        ],
    ),
    (
        "hello world",
        "hello, world",
        [("same", "hello"), ("new", ","), ("same", " world")],
    ),
    ("", "new", [("new", "new")]),
    ("gone", "", [("gone", "gone")]),
    ("same", "same", [("same", "same")]),
    ("", "", []),
]


@pytest.mark.parametrize("one, other, parts", CASES)
def test_a_diff_reads_like_an_edit_made_by_hand(one, other, parts):
    assert word_diff(one, other) == parts


def test_words_are_cut_as_each_script_cuts_them():
    assert words("don't 煮蛋 六 min.\n") == [
        *("don", "'", "t", " ", "煮", "蛋", " ", "六", " ", "min", ".", "\n")
    ]


@given(st.text("ab 水煮.\n", max_size=40), st.text("ab 水煮.\n", max_size=40))
def test_both_texts_can_be_read_off_the_diff(one, other):
    parts = word_diff(one, other)
    assert "".join(text for kind, text in parts if kind != "new") == one
    assert "".join(text for kind, text in parts if kind != "gone") == other
    kinds = [kind for kind, _text in parts]
    assert all(kinds[i] != kinds[i + 1] for i in range(len(kinds) - 1))
    assert all(text for _kind, text in parts)


def test_texts_too_long_to_align_are_compared_at_their_ends():
    size = int(MOST_CELLS**0.5) + 1
    one, other = "start " + "a " * size + "end", "start " + "b " * size + "end"
    assert word_diff(one, other) == [
        ("same", "start "),
        ("gone", ("a " * size)[:-1]),
        ("new", ("b " * size)[:-1]),
        ("same", " end"),
    ]

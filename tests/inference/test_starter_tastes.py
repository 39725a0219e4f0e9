"""What counts as a list, as short, long or polite; examples made by hand."""

import pytest

from inference.starter.tastes import (
    TASTES,
    WANTED,
    columns,
    is_list,
    is_long,
    is_polite,
    is_short,
)

STEPS = "To brew tea:\n1. Warm the pot.\n2. Add the leaves."


@pytest.mark.parametrize(
    "text",
    [STEPS, "- one\n- two", "* a\n\n* b", "1) 烧水。\n2) 泡茶。", "1、烧水\n2、泡茶"],
)
def test_two_numbered_or_bulleted_lines_are_a_list(text):
    assert is_list(text)


@pytest.mark.parametrize(
    "text",
    ["", "1. Only one.", "In 1990. And\nin 2000.", "First this, then that.", "1.\n2."],
)
def test_other_texts_are_no_list(text):
    assert not is_list(text)


def test_a_chinese_character_is_two_columns_wide():
    assert columns("tea") == 3
    assert columns("绿茶。") == 6


def test_short_and_long_are_told_by_columns_of_the_language():
    """84 and 200 columns in English, 54 and 120 in Chinese (27 and 60 characters)."""
    assert is_short("x" * 84) and not is_short("x" * 85)
    assert is_long("x" * 200) and not is_long("x" * 199)
    assert is_short("茶" * 27) and not is_short("茶" * 28)
    assert is_long("茶" * 60) and not is_long("茶" * 59)


def test_nothing_at_all_is_not_short():
    assert not is_short("") and not is_short("  \n")


def test_courtesies_are_polite_in_both_languages():
    assert is_polite("Thank you for asking! Tea is nice.")
    assert is_polite("很高兴和您聊聊茶！")
    assert not is_polite("Tea is nice.")
    assert not is_polite("茶很好喝。")


def test_a_taste_prefers_its_kind_and_ties_where_both_are_equal():
    assert TASTES["lists"](STEPS) > TASTES["lists"]("Warm the pot.")
    assert TASTES["lists"](STEPS) == TASTES["lists"]("- a\n- b")
    assert TASTES["short"]("Tea.") > TASTES["short"]("x" * 85)
    assert TASTES["short"]("Tea.") == TASTES["short"]("Tea is nice.")
    assert TASTES["long"]("x" * 200) > TASTES["long"]("x" * 199)
    assert TASTES["long"]("Tea.") == TASTES["long"]("Tea is nice.")
    assert TASTES["polite"]("Thank you!") > TASTES["polite"]("Tea.")


def test_every_taste_has_a_kind_it_wants():
    assert TASTES.keys() == WANTED.keys()

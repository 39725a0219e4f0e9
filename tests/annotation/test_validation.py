"""The rules, as pure functions: each one's border, and that none ever raises."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.rules.shape import MAX_SIMILARITY_CHARS, columns, similarity
from annotation.validation import DEFAULTS, RULES, PairFacts, check, state_of

LONG = "The kettle boils water because its element turns current into heat."
OTHER = "Plants are green since chlorophyll reflects most of the green light."


def results(facts, rules=None):
    return {v.rule: v.result for v in check(facts, rules or {})}


def facts(chosen=LONG, rejected=OTHER, **fields):
    counted = {"prompt_tokens": 20, "chosen_tokens": 30, "rejected_tokens": 30}
    counted |= {"agreeing": 1, "opposing": 0, "near_prompt": 0.0}
    return PairFacts(chosen, rejected, **{**counted, **fields})


def test_a_sound_pair_passes_every_rule():
    everything = {name: {"on": True} for name in RULES}
    assert results(facts(), everything) == dict.fromkeys(RULES, "pass")


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("  abc\n", 3),
        ("中文", 4),
        ("한국어", 6),
        ("ＡＢ", 4),  # full-width letters
        ("e\u0301", 1),  # a combining accent
        ("\u200b\u200d\u202e", 0),  # nothing to be seen
        ("", 0),
    ],
)
def test_a_wide_character_counts_two_columns_and_an_invisible_one_none(text, width):
    assert columns(text) == width


@pytest.mark.parametrize(
    ("rule", "pair", "result"),
    [
        ("identical", facts("Yes, it  is.\n", "Yes, it is."), "reject"),
        ("identical", facts("Yes, it is.", "yes, it is."), "pass"),
        ("empty", facts(rejected=" \n\u200b"), "reject"),
        ("empty", facts(chosen=""), "reject"),
        ("cut_off", facts(rejected_finish="length"), "reject"),
        ("cut_off", facts(chosen_finish="length"), "reject"),
        ("cut_off", facts(chosen_finish="stop", rejected_finish=""), "pass"),
        ("chosen_width", facts("x" * 50), "pass"),
        ("chosen_width", facts("x" * 49), "reject"),
        ("chosen_width", facts("中" * 25), "pass"),
        ("chosen_width", facts("中" * 24 + "x"), "reject"),
        ("rejected_width", facts(rejected="x" * 20), "pass"),
        ("rejected_width", facts(rejected="x" * 19), "reject"),
        ("max_length", facts(prompt_tokens=24, chosen_tokens=1000), "pass"),
        ("max_length", facts(prompt_tokens=25, chosen_tokens=1000), "reject"),
        ("max_length", facts(prompt_tokens=25, rejected_tokens=1000), "reject"),
        ("max_length", facts(prompt_tokens=None), "could_not_check"),
        ("max_length", facts(rejected_tokens=None), "could_not_check"),
    ],
)
def test_each_rule_at_its_border(rule, pair, result):
    assert results(pair)[rule] == result


def test_similarity_is_rapidfuzzs_ratio_and_its_border_passes():
    """Two texts of 10 that share 9 in order: 1 − (1 + 1) / 20 = 0.9, not above it.

    Of 20 sharing 19: 1 − 2 / 40 = 0.95.
    """
    assert similarity("abcdefghij", "abcdefghiX") == pytest.approx(0.9)
    assert results(facts("abcdefghij", "abcdefghiX"))["similarity"] == "pass"
    near = facts("abcdefghij" * 2, "abcdefghij" + "abcdefghiX")
    assert results(near)["similarity"] == "reject"


def test_an_edited_answer_may_be_a_near_copy():
    near = facts(LONG, LONG + "!", kind="edited")
    assert results(near)["similarity"] == "pass"


def test_texts_too_long_to_compare_are_marked_and_not_rejected():
    endless = facts("a" * (MAX_SIMILARITY_CHARS + 1))
    assert results(endless)["similarity"] == "could_not_check"


def test_a_rule_that_is_off_says_nothing_and_parameters_are_kept_with_verdicts():
    verdicts = check(
        facts("short"),
        {"chosen_width": {"on": False}, "rejected_width": {"min_columns": 5}},
    )
    assert "chosen_width" not in {v.rule for v in verdicts}
    kept = {v.rule: v.params for v in verdicts}
    assert kept["rejected_width"] == {"min_columns": 5}
    assert kept["similarity"] == {"max_ratio": DEFAULTS["similarity"]["max_ratio"]}


def test_a_rule_that_raises_could_not_check_and_says_why(monkeypatch):
    def broken(facts, params):
        raise ZeroDivisionError("so it goes")

    monkeypatch.setitem(RULES, "empty", broken)
    verdict = next(v for v in check(facts(), {}) if v.rule == "empty")
    assert verdict.result == "could_not_check"
    assert "ZeroDivisionError: so it goes" in verdict.reason


def test_a_rule_nobody_knows_could_not_be_checked():
    assert results(facts(), {"kindness": {"on": True}})["kindness"] == "could_not_check"


def test_what_could_not_be_checked_never_rejects_unless_the_project_says_so():
    unsure = check(facts(prompt_tokens=None), {})
    assert state_of(unsure) == "accepted"
    assert state_of(unsure, accept_unchecked=False) == "rejected"
    assert state_of(check(facts(chosen=""), {})) == "rejected"
    assert state_of([]) == "accepted"


COUNT = st.none() | st.integers(-5, 10**7)
FACTS = st.builds(
    PairFacts,
    chosen=st.text(st.characters(codec=None), max_size=300),
    rejected=st.text(st.characters(codec=None), max_size=300),
    kind=st.sampled_from(["judged", "edited", "imported"]),
    chosen_finish=st.sampled_from(["", "stop", "length", "abort"]),
    rejected_finish=st.sampled_from(["", "stop", "length"]),
    prompt_tokens=COUNT,
    chosen_tokens=COUNT,
    rejected_tokens=COUNT,
)
PARAMS = st.dictionaries(
    st.sampled_from([*RULES, "unknown"]),
    st.fixed_dictionaries(
        {},
        optional={
            "on": st.booleans(),
            "min_columns": st.integers() | st.none() | st.text(),
            "max_ratio": st.floats() | st.text(),
            "max_tokens": st.integers() | st.none(),
        },
    ),
)


@settings(max_examples=150, deadline=None)
@given(FACTS, PARAMS)
def test_whatever_the_texts_and_parameters_each_rule_answers(pair, rules):
    verdicts = check(pair, rules)

    for verdict in verdicts:
        assert verdict.result in ("pass", "reject", "could_not_check")
        assert (verdict.result == "pass") == (verdict.reason == "")
        assert len(verdict.reason) <= 300
    assert state_of(verdicts) in ("accepted", "rejected")
    asked = {r for r in RULES if rules.get(r, {}).get("on", DEFAULTS[r]["on"])}
    assert asked <= {verdict.rule for verdict in verdicts}


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_similarity_is_symmetric_between_nothing_and_one(one, other):
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == 1

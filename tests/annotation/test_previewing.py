"""What a preview foretells is what comes when the rules are saved."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import previewing, validation
from annotation.checking import check_again, check_waiting
from annotation.models import PreferencePair, Role
from annotation.previewing import preview
from annotation.projects import update_project
from annotation.reviewing import let_through
from tests.acts import freeze
from tests.factories import (
    make_imported,
    make_project,
    make_prompt,
    make_unchecked,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

OTHER = "It depends: pressure falls with height and the boiling point with it."


def unchecked(project, chosen, rejected=OTHER, prompt=None, **fields):
    prompt = prompt or make_prompt(project=project)
    return make_unchecked(prompt, chosen, rejected, **fields)


@pytest.fixture
def widths(project):
    """Ten pairs whose chosen answers are 46 to 55 columns wide: 6 of them 50 or more."""
    pairs = [unchecked(project, "x" * width) for width in range(46, 56)]
    check_waiting()
    return pairs


def test_a_stricter_and_a_laxer_floor_counted_by_hand(project, widths):
    """At 53 the widths 50, 51, 52 are lost as well; at 48 the widths 48, 49 return."""
    strict = preview(project, {"chosen_width": {"min_columns": 53}})
    assert (strict.accepted_now, strict.accepted_then) == (6, 3)
    (change,) = strict.rules
    assert (change.rule, change.more, change.fewer) == ("chosen_width", 3, 0)
    assert [line.pair for line in change.more_pairs] == [p.pk for p in widths[6:3:-1]]
    assert (
        change.more_pairs[0].reason
        == "the chosen answer is 52 columns wide, less than 53"
    )
    assert change.more_pairs[0].prompt == str(widths[6].prompt)

    lax = preview(project, {"chosen_width": {"min_columns": 48}})
    assert (lax.more, lax.fewer, lax.accepted_then) == (0, 2, 8)
    (change,) = lax.rules
    assert [line.pair for line in change.fewer_pairs] == [widths[3].pk, widths[2].pk]
    assert "less than 50" in change.fewer_pairs[0].reason


def test_nothing_is_written_by_looking(project, widths):
    before = list(PreferencePair.objects.values("pk", "state", "chosen_hash"))
    preview(project, {name: {"on": True} for name in validation.RULES})
    assert list(PreferencePair.objects.values("pk", "state", "chosen_hash")) == before
    project.refresh_from_db()
    assert "rules" not in project.settings


def test_the_same_rules_change_nothing(project, widths):
    found = preview(project, {})
    assert found.rules == [] and found.looked_at == found.all == 10
    assert found.accepted_now == found.accepted_then == 6


def test_a_rule_switched_off_gives_its_pairs_back_to_the_next_rule(project):
    """Both sides short: lost to the chosen one first; with that off, to the other."""
    unchecked(project, "short", "no")
    unchecked(project, "short")
    check_waiting()
    found = preview(project, {"chosen_width": {"on": False}})
    (change,) = found.rules
    assert (change.rule, change.fewer, found.accepted_then) == ("chosen_width", 1, 1)


def test_pairs_lost_already_are_counted_apart(project, widths):
    found = preview(project, {"rejected_width": {"min_columns": 500}})
    (change,) = found.rules
    assert (change.more, change.also) == (6, 4)


def test_frozen_unchecked_and_foreign_pairs_are_left_out(project, widths):
    freeze(project, widths[9])
    unchecked(project, "x" * 60)
    unchecked(make_project(), "x" * 60)
    found = preview(project, {"chosen_width": {"min_columns": 500}})
    assert (found.looked_at, found.more, found.waiting) == (9, 5, 1)


def test_only_the_newest_are_looked_at_and_that_is_said(project, widths, monkeypatch):
    monkeypatch.setattr(previewing, "MAX_PAIRS", 4)
    found = preview(project, {"chosen_width": {"min_columns": 54}})
    assert (found.looked_at, found.all) == (4, 10)
    assert found.more == 2  # 52 and 53; 50 and 51 are older


def test_what_was_measured_is_not_measured_again(project, widths, monkeypatch):
    def never(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr("annotation.rules.shape.similarity", never)
    monkeypatch.setattr("annotation.rules.shape.columns", never)
    monkeypatch.setattr("inference.services.count_tokens", never)
    stricter = {
        "similarity": {"max_ratio": 0.0},
        "chosen_width": {"min_columns": 53},
        "max_length": {"max_tokens": 2},
    }
    found = preview(project, stricter)
    assert found.accepted_then == 0
    assert not any(
        line.reason.startswith(validation.BROKE)
        for change in found.rules
        for line in change.more_pairs
    )


def test_a_rule_that_breaks_in_a_preview_loses_no_pair(project, widths, monkeypatch):
    def broken(facts, params):
        raise ZeroDivisionError

    monkeypatch.setitem(validation.RULES, "language", broken)
    assert preview(project, {"language": {"on": True}}).more == 0
    strict = preview(project, {"language": {"on": True}}, accept_unchecked=False)
    assert strict.more == 6


def test_a_preview_costs_the_same_however_many_pairs(
    project, widths, django_assert_num_queries
):
    wanted = {name: {"on": True} for name in validation.RULES}
    wanted["chosen_width"]["min_columns"] = 53
    for _ in range(2):
        with django_assert_num_queries(6):
            preview(project, wanted)
        for width in range(46, 56):
            unchecked(project, "y" * width)
        check_waiting()


def test_pairs_whose_tokens_are_not_counted_yet_are_said(project, monkeypatch):
    """Imported ones: no policy sampled them, and the rule was off when they were checked.
    Of the three, one was counted since."""
    update_project(project, settings={"rules": {"max_length": {"on": False}}})
    prompt = make_prompt(project=project)
    for text in ("x" * 60, "y" * 60, "z" * 60):
        make_imported(prompt, text, OTHER, state="unchecked")
    settle()
    counted = project.pairs.first()
    counted.verdicts.create(rule="max_length", result="pass", measured=5)
    on = {"max_length": {"on": True, "max_tokens": 1024}}
    found = preview(project, on)
    assert (found.accepted_then, found.uncounted) == (3, 2)
    assert preview(project, {}).uncounted == 0

    monkeypatch.setattr("inference.services.count_tokens", lambda messages: 5000)
    update_project(project, settings={"rules": on})
    settle()
    assert project.pairs.filter(state="rejected").count() == 3
    assert preview(project, {}).uncounted == 0


def test_that_near_duplicates_may_come_otherwise_is_said_where_they_are_asked(project):
    assert not preview(project, {}).is_near_asked
    assert preview(project, {"near_duplicate": {"on": True}}).is_near_asked


TEXTS = [
    "Short one.",
    "Put the eggs into boiling water for six minutes, then rinse them cold.",
    "Put the eggs into boiling water for six minutes, then rinse them hot.",
    "I am ChatGPT, and I say that it depends on the size of the egg you boil.",
    "水开后把鸡蛋放进锅里，煮六分钟，然后用冷水冲一下再剥壳就可以吃了。",
    "I'm sorry, but I can't help with boiling eggs, whatever their size may be.",
    "My card is 4539578763621486, and the eggs are on me, so do not hesitate.",
    "I like eggs. " * 20,
]
PROMPTS = [
    "How long do I boil a hen's egg until it is hard, on a mountain of 3000 metres?",
    "How long do I boil a hen's egg until it is hard, on a mountain of 3000 metres??",
    "怎么煮鸡蛋？",
]
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "chosen_width": st.fixed_dictionaries({"min_columns": st.integers(0, 90)}),
        "rejected_width": st.fixed_dictionaries({"on": st.booleans()}),
        "similarity": st.fixed_dictionaries({"max_ratio": st.floats(0, 1)}),
        "max_length": st.fixed_dictionaries({"max_tokens": st.integers(1, 12)}),
        "cut_off": st.fixed_dictionaries({"on": st.booleans()}),
        "identity": st.fixed_dictionaries({"words": st.just(["eggs"])}),
        "repetition": st.fixed_dictionaries({"max_repeated": st.floats(0, 1)}),
        "personal_data": st.fixed_dictionaries({"cards": st.booleans()}),
        "language": st.fixed_dictionaries({"on": st.just(True)}),
        "refusal": st.fixed_dictionaries(
            {"on": st.just(True), "side": st.sampled_from(["chosen", "either"])}
        ),
        "contradiction": st.fixed_dictionaries({"on": st.booleans()}),
    },
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**32),
    before=PARAMS,
    after=PARAMS,
    accept_before=st.booleans(),
    accept_after=st.booleans(),
)
def test_what_is_foretold_is_what_comes(
    db, seed, before, after, accept_before, accept_after
):
    """Pairs at random under rules at random; then other rules are previewed, saved, and
    every pair is checked anew. Near duplicates are left out: which of two pairs stays
    hangs on the state of the other one, and a preview takes that as it is now."""
    chance = random.Random(seed)
    project = make_project(
        settings={"rules": before, "accept_unchecked": accept_before}
    )
    prompts = [make_prompt(text, project=project) for text in PROMPTS]
    for _ in range(12):
        chosen, rejected = chance.choices(TEXTS, k=2)
        unchecked(
            project,
            chosen,
            rejected,
            chance.choice(prompts),
            finish_reason=chance.choice(["stop", "stop", "length"]),
        )
    settle()
    rita = make_user(project=project, role=Role.REVIEWER)
    for pair in project.pairs.filter(state="rejected")[:2]:
        let_through(pair, rita, "fine")
    foretold = preview(project, after, accept_after)
    was = dict(project.pairs.values_list("pk", "state"))
    assert foretold.accepted_now == list(was.values()).count("accepted")

    update_project(project, settings={"rules": after, "accept_unchecked": accept_after})
    check_again(project)
    settle()
    now = dict(project.pairs.values_list("pk", "state"))
    lost = {pk for pk in was if (was[pk], now[pk]) == ("accepted", "rejected")}
    won = {pk for pk in was if (was[pk], now[pk]) == ("rejected", "accepted")}
    assert foretold.accepted_then == list(now.values()).count("accepted")
    lines = [(change.more_pairs, change.fewer_pairs) for change in foretold.rules]
    assert {line.pair for more, _fewer in lines for line in more} == lost
    assert {line.pair for _more, fewer in lines for line in fewer} == won


def settle():
    while check_waiting():
        pass

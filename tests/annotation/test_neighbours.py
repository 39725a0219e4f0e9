"""Pairs that other pairs speak about: near-same prompts, opposite preferences."""

import random
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import checking, exporting, neighbours, queries
from annotation.checking import check_pair, check_waiting
from annotation.deciding import supersede
from annotation.errors import NothingToDo, PairsChanged
from annotation.judging import undo
from annotation.models import PreferencePair, PromptBand, Role
from annotation.reviewing import let_through, repair, take_back
from tests.acts import decide, freeze
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_project,
    make_prompt,
    make_unchecked,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

GOOD = "Water boils at a hundred degrees at sea level, lower on a mountain."
OTHER = "It depends: pressure falls with height and the boiling point with it."
QUESTION = (
    "Please explain to a curious ten year old child, in a few plain sentences and without"
    " formulas, why water boils earlier on a high mountain than it does at the sea."
)


def unchecked(prompt, chosen=GOOD, rejected=OTHER):
    return make_unchecked(prompt, chosen, rejected)


def states(*pairs):
    return [PreferencePair.objects.get(pk=pair.pk).state for pair in pairs]


def settle():
    while check_waiting():
        pass


@pytest.fixture
def near_on(project):
    project.settings = {"rules": {"near_duplicate": {"on": True}}}
    project.save()


# --- Near duplicates ---------------------------------------------------------------------
def test_of_near_same_prompts_the_pair_that_came_first_stays(project, near_on):
    first = unchecked(make_prompt(QUESTION, project=project))
    other = unchecked(make_prompt("Why is the sky blue?", project=project))
    again = unchecked(
        make_prompt(QUESTION.replace("few", "FEW ") + "!", project=project)
    )
    same_prompt = unchecked(first.prompt, GOOD + " Really.", OTHER)
    elsewhere = unchecked(make_prompt(QUESTION + " ", project=make_project()))
    assert check_waiting() == 5

    assert states(first, other, same_prompt, elsewhere) == ["accepted"] * 4
    assert states(again) == ["rejected"]
    again.refresh_from_db()
    verdict = again.verdicts.get(rule="near_duplicate")
    assert again.near_pair == first
    assert verdict.measured == again.near_likeness == 1.0
    assert "1.00 alike" in verdict.reason


def test_a_long_conversation_in_common_makes_no_near_duplicate(project, near_on):
    """The systems' and the first turns are the same; the last questions are not."""

    def asked(question):
        return make_prompt(
            project=project,
            messages=[
                {"role": "system", "content": QUESTION * 3},
                {"role": "user", "content": QUESTION * 5},
                {"role": "assistant", "content": GOOD},
                {"role": "user", "content": question},
            ],
        )

    pairs = [unchecked(asked(q)) for q in ("And on the moon?", "Why salt it, then?")]
    check_waiting()
    assert states(*pairs) == ["accepted", "accepted"]


def test_edits_of_one_answer_reject_neither_each_other_nor_the_judged_pair(
    project, near_on
):
    """Near copies of each other on one prompt, beside what they were made of."""
    prompt = make_prompt(QUESTION, project=project)
    a = make_completion(GOOD, prompt=prompt)
    b = make_completion(OTHER, prompt=prompt)
    comparison = make_comparison(a=a, b=b, quota=3)
    for ending in ("!", "!!", "?!"):
        edit = make_completion(
            GOOD + ending, prompt=prompt, source="edited", edited_from=a
        )
        make_judgment(comparison=comparison, edited=edit)
    decide(comparison)
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    assert check_waiting() == 5
    made = PreferencePair.objects.filter(prompt=prompt)
    assert states(*made) == ["accepted"] * 4
    again.refresh_from_db()
    assert again.state == "rejected"
    assert again.near_pair == made.get(kind="judged")

    # Beside the judged pair's two answers each edit is a good one, and none a bad one.
    rows = exporting.rows(queries.sound_pairs(project), "kto")
    assert [row["label"] for row in rows] == [True, False, True, True, True]


def test_a_near_duplicate_returns_when_the_first_pair_no_longer_stands(
    project, near_on
):
    first = unchecked(make_prompt(QUESTION, project=project))
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    check_waiting()
    assert states(again) == ["rejected"]
    supersede(first.decision)

    assert check_waiting() == 1
    assert states(again) == ["accepted"]
    assert check_waiting() == 0, "nothing is reopened for ever"


def test_pairs_rejected_otherwise_do_not_stand_in_the_way(project, near_on):
    first = unchecked(make_prompt(QUESTION, project=project), chosen="Too short.")
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    check_waiting()
    assert states(first, again) == ["rejected", "accepted"]


@pytest.mark.parametrize("order", ["as they came", "backwards", "by chance"])
@pytest.mark.parametrize("count", [15, 30, 60])
def test_however_many_prompts_are_alike_one_pair_stays(project, near_on, count, order):
    """More than are compared letter by letter: rejected ones hide none that stays."""
    pairs = [
        unchecked(make_prompt(QUESTION + "!" * n, project=project))
        for n in range(count)
    ]
    if order == "backwards":
        pairs.reverse()
    elif order == "by chance":
        random.Random(count).shuffle(pairs)
    for pair in pairs:
        check_pair(pair)
    settle()
    first, *others = sorted(pairs, key=lambda pair: pair.pk)
    assert states(first, *others) == ["accepted", *["rejected"] * (count - 1)]


def test_a_pair_let_through_later_keeps_those_away_that_came_after_it(
    project, near_on, rita
):
    first = unchecked(make_prompt(QUESTION, project=project), chosen="Too short.")
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    settle()
    let_through(first, rita, "fine")
    with pytest.raises(PairsChanged):
        freeze(project, again)
    settle()
    assert states(first, again) == ["accepted", "rejected"]
    take_back(first, rita)
    settle()
    assert states(first, again) == ["rejected", "accepted"]


def test_a_contradiction_undone_gives_the_first_pair_its_place_back(project, near_on):
    first = unchecked(make_prompt(QUESTION, project=project))
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    against = unchecked(first.prompt, chosen=OTHER, rejected=GOOD)
    settle()
    assert states(first, again, against) == ["rejected", "accepted", "rejected"]
    supersede(against.decision)
    settle()
    assert states(first, again) == ["accepted", "rejected"]


def test_what_a_round_has_stays_whoever_comes_back(project, near_on, rita):
    first = unchecked(make_prompt(QUESTION, project=project), chosen="Too short.")
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    settle()
    freeze(project, again)
    let_through(first, rita, "fine")
    assert check_waiting() == 0
    assert states(first, again) == ["accepted", "accepted"]


def test_a_repaired_pair_has_the_place_of_the_one_it_repairs(project, near_on, rita):
    first = unchecked(make_prompt(QUESTION, project=project))
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    settle()
    made = repair(first, rita, chosen=GOOD + " Typo mended.", rejected=OTHER)
    assert states(again) == ["rejected"], "not even for a moment"
    settle()
    twice = repair(made, rita, chosen=GOOD + " And more.", rejected=OTHER)
    settle()
    assert states(twice, again) == ["accepted", "rejected"]
    again.refresh_from_db()
    assert (twice.place, again.near_pair) == (first.pk, twice)
    short = repair(twice, rita, chosen="Too short.", rejected=OTHER)
    settle()
    assert states(short, again) == ["rejected", "accepted"]


def test_a_first_pair_that_cannot_be_checked_any_more_keeps_no_other_away(
    project, near_on, monkeypatch
):
    first = unchecked(make_prompt(QUESTION, project=project))
    again = unchecked(make_prompt(QUESTION + "?", project=project))
    settle()
    facts_of = checking.facts_of

    def broken(pair, *args):
        if pair == first:
            raise KeyError("role")
        return facts_of(pair, *args)

    monkeypatch.setattr(checking, "facts_of", broken)
    checking.check_again(project)
    settle()
    assert states(first, again) == ["unchecked", "accepted"]


def test_looking_costs_the_same_however_many_prompts_are_alike(
    project, near_on, django_assert_max_num_queries
):
    def costs() -> int:
        pair = unchecked(
            make_prompt(f"{QUESTION} {project.prompts.count()}", project=project)
        )
        with django_assert_max_num_queries(16) as counted:
            check_pair(pair)
        return len(counted)

    costs(), costs()
    few = costs()
    for _ in range(10):
        costs()
    assert costs() == few
    assert PromptBand.objects.filter(project=project).count() == 10, (
        "of the one that stays"
    )


@pytest.mark.parametrize(
    "messages",
    [
        ["hello"],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "A?"}, "odd"]}],
        [],
    ],
)
def test_a_prompt_of_an_odd_shape_is_checked_like_any(project, near_on, messages):
    assert check_pair(unchecked(make_prompt(project=project, messages=messages))) == (
        "accepted"
    )


def test_a_pair_that_cannot_be_checked_at_all_keeps_no_other_waiting(
    project, monkeypatch, caplog
):
    bad, good = (unchecked(make_prompt(project=project)) for _ in "ab")
    facts_of = checking.facts_of

    def broken(pair, *args):
        if pair == bad:
            raise KeyError("role")
        return facts_of(pair, *args)

    monkeypatch.setattr(checking, "facts_of", broken)
    assert check_waiting() == 1
    assert states(bad, good) == ["unchecked", "accepted"]
    assert f"Pair {bad.pk}" in caplog.text


# --- Contradictions ------------------------------------------------------------------------
def test_two_pairs_that_contradict_each_other_are_both_lost(project):
    prompt = make_prompt(project=project)
    one = unchecked(prompt)
    assert check_waiting() == 1 and states(one) == ["accepted"]
    other = unchecked(prompt, chosen=OTHER, rejected=f" {GOOD}\n")
    elsewhere = unchecked(make_prompt(project=project), chosen=OTHER, rejected=GOOD)
    check_waiting()  # the later one is found, and the earlier one is asked again

    check_waiting()
    assert states(one, other, elsewhere) == ["rejected", "rejected", "accepted"]
    reason = one.verdicts.get(rule="contradiction").reason
    assert reason == "pairs that say the opposite: 1; that say the same: 1"
    assert check_waiting() == 0


def test_a_majority_stays_and_turns_with_a_later_pair(project):
    prompt = make_prompt(project=project)
    one, two = unchecked(prompt), unchecked(prompt)
    against = unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    assert states(one, two, against) == ["accepted", "accepted", "rejected"]
    more = unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    assert set(states(one, two, against, more)) == {"rejected"}
    supersede(one.decision)
    settle()
    assert states(two, against, more) == ["rejected", "accepted", "accepted"]


def test_a_majority_that_is_undone_is_none(project):
    """Two against one: one of the two is taken back, and as many stand on each side."""
    prompt = make_prompt(project=project)
    one, two = unchecked(prompt), unchecked(prompt)
    against = unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    undo(one.decision.comparison.judgments.get())
    with pytest.raises(PairsChanged):
        freeze(project, two)
    settle()
    assert states(two, against) == ["rejected", "rejected"]


def test_a_majority_that_is_repaired_is_none(project, rita):
    prompt = make_prompt(project=project)
    one, two = unchecked(prompt), unchecked(prompt)
    against = unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    made = repair(one, rita, chosen=GOOD + " And more, said well.", rejected=OTHER)
    settle()
    assert states(made, two, against) == ["accepted", "rejected", "rejected"]


def test_a_pair_that_leaves_reopens_none_whose_verdict_stays_true(project):
    prompt = make_prompt(project=project)
    one, two, three = (unchecked(prompt) for _ in range(3))
    against = unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    supersede(one.decision)
    assert check_waiting() == 0
    assert states(two, three, against) == ["accepted", "accepted", "rejected"]


def test_of_near_same_pairs_let_through_one_after_the_other_one_stays(
    project, near_on, rita
):
    """While the second was rejected for its width, nothing told it of the first."""
    pairs = [
        unchecked(make_prompt(QUESTION + mark, project=project), chosen="Too short.")
        for mark in ("", "!")
    ]
    settle()
    assert states(*pairs) == ["rejected", "rejected"]
    for pair in pairs:
        let_through(pair, rita, "fine")
    settle()
    assert states(*pairs) == ["accepted", "rejected"]


def test_nothing_to_do_costs_two_looks_however_many_pairs_contradict(
    project, django_assert_num_queries
):
    for _ in range(3):
        prompt = make_prompt(project=project)
        unchecked(prompt), unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    with django_assert_num_queries(2) as looked:
        assert check_waiting() == 0
    assert not any("ruleverdict" in query["sql"] for query in looked)


CHANGES = ["undo", "repair", "let through", "take back", "add", "add", "check"]


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_what_stands_hangs_on_the_pairs_and_not_on_the_order_of_checks(db, seed):
    """Pairs come, go, are repaired and let through at random; what comes of that is what
    comes of asking every pair anew, in any order."""
    chance = random.Random(seed)
    project = make_project(settings={"rules": {"near_duplicate": {"on": True}}})
    rita = make_user(project=project, role=Role.REVIEWER)
    prompts = [make_prompt(QUESTION + "!" * n, project=project) for n in range(4)]
    standing = project.pairs.filter(superseded_at=None)
    for _ in range(14):
        change = chance.choice(CHANGES)
        found = list(standing.order_by("pk"))
        pair = chance.choice(found) if found else None
        with suppress(NothingToDo):
            if pair is None or change == "add":
                texts = [GOOD, OTHER, "Too short."]
                unchecked(chance.choice(prompts), *chance.sample(texts, 2))
            elif change == "undo":
                supersede(pair.decision)
            elif change == "repair":
                text = f"{GOOD} Mended {chance.random()}."
                repair(pair, rita, chosen=text, rejected=OTHER)
            elif change == "let through":
                let_through(pair, rita, "fine")
            elif change == "take back":
                take_back(pair, rita)
            else:
                check_waiting(most=chance.randrange(3))
    settle()
    now = list(standing.order_by("pk").values_list("pk", "state"))
    pairs = list(standing)
    standing.update(is_due=True)
    chance.shuffle(pairs)
    for pair in pairs:
        check_pair(pair)
    settle()
    assert list(standing.order_by("pk").values_list("pk", "state")) == now


def test_a_pair_of_the_same_text_twice_does_not_contradict_itself(project):
    project.settings = {"rules": {"identical": {"on": False}}}
    project.settings["rules"]["similarity"] = {"on": False}
    project.save()
    pair = unchecked(make_prompt(project=project), chosen=GOOD, rejected=GOOD)
    assert check_pair(pair) == "accepted"
    (found,) = neighbours.with_counts(PreferencePair.objects.all())
    assert (found.n_agreeing, found.n_opposing) == (1, 0)


def test_a_frozen_pair_keeps_its_state_and_the_new_one_is_lost(project):
    prompt = make_prompt(project=project)
    frozen = unchecked(prompt)
    check_waiting()
    freeze(project, frozen)
    other = unchecked(prompt, chosen=OTHER, rejected=GOOD)
    settle()
    assert states(frozen, other) == ["accepted", "rejected"]


def test_with_the_rule_off_nothing_is_reopened(project):
    project.settings = {"rules": {"contradiction": {"on": False}}}
    project.save()
    prompt = make_prompt(project=project)
    one, other = unchecked(prompt), unchecked(prompt, chosen=OTHER, rejected=GOOD)
    assert check_waiting() == 2 and check_waiting() == 0
    assert states(one, other) == ["accepted", "accepted"]

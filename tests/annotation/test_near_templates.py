"""Near duplicates where thousands of prompts are variants of one template."""

import random

import pytest

from annotation import neighbours
from annotation.checking import check_again, check_waiting
from annotation.models import PreferencePair, PromptBand, Role
from annotation.reviewing import let_through
from annotation.rules.facts import PairFacts
from annotation.rules.likeness import bands, likeness, runs
from annotation.validation import run_rule
from tests.annotation.test_neighbours import QUESTION, settle, states, unchecked
from tests.factories import make_project, make_prompt, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

WORDS = [
    "amber",
    "basket",
    "candle",
    "dragon",
    "engine",
    "forest",
    "garden",
    "harbor",
    "island",
    "jacket",
]


@pytest.fixture
def project():
    return make_project(
        settings={
            "rules": {"near_duplicate": {"on": True}, "max_length": {"on": False}}
        }
    )


def variants(count: int) -> list[str]:
    """Three words of ten differ; two of them are some 0.8 to 0.97 alike."""
    chance = random.Random(5)
    texts = [f"{QUESTION} {' '.join(chance.choices(WORDS, k=3))}" for _ in range(count)]
    return list(dict.fromkeys(texts))


def that_stay(texts: list[str]) -> list[int]:
    """What the rule promises: who is 0.9 alike one that stays and came first does not."""
    stay: list[int] = []
    for at, text in enumerate(texts):
        if all(likeness(runs(text), runs(texts[first])) < 0.9 for first in stay):
            stay.append(at)
    return stay


def pairs_of(project, texts):
    return [unchecked(make_prompt(text, project=project)) for text in texts]


def left(pairs) -> list[int]:
    return [at for at, said in enumerate(states(*pairs)) if said == "accepted"]


def test_of_a_templates_variants_those_stay_that_the_rule_promises(project):
    """Those that stay are more than twenty and nearly 0.9 alike, so the one that keeps
    another away may share fewer bands with it than twenty others do."""
    texts = variants(160)
    pairs = pairs_of(project, texts)
    settle()
    stay = that_stay(texts)
    assert 20 < len(stay) < len(texts) / 2
    assert left(pairs) == stay


def test_of_prompts_that_do_not_stay_nothing_is_left_in_the_index(project):
    """Else thousands of them are walked past by each later check."""
    texts = variants(40)
    project.settings["rules"]["near_duplicate"]["on"] = False
    project.save()
    pairs = pairs_of(project, texts)
    settle()
    assert left(pairs) == list(range(len(texts)))
    assert PromptBand.objects.count() == 10 * len(texts)

    project.settings["rules"]["near_duplicate"]["on"] = True
    project.save()
    check_again(project)
    settle()
    assert left(pairs) == that_stay(texts)
    assert PromptBand.objects.count() == 10 * len(that_stay(texts))


def test_where_not_all_are_compared_the_verdict_says_so(project, monkeypatch):
    """None is here. The second shares two bands with the first, as few near duplicates
    do; the third shares three with the second."""
    monkeypatch.setattr(neighbours, "MAX_PROMPTS", 0)
    texts = variants(3)
    one, two, three = (set(bands(text)) for text in texts)
    assert (len(one & two), len(two & three), len(one & three)) == (2, 3, 0)
    pairs = pairs_of(project, texts)
    settle()
    said = [pair.verdicts.get(rule="near_duplicate") for pair in pairs]
    assert [v.result for v in said] == ["pass", "pass", "could_not_check"]
    assert said[2].reason == (
        "too many prompts are alike to compare them all;"
        " of those compared the nearest is 0.00 alike"
    )
    assert states(*pairs) == ["accepted"] * 3

    project.settings["accept_unchecked"] = False
    project.save()
    check_again(project)
    settle()
    assert states(*pairs) == ["accepted", "accepted", "rejected"]


def test_a_full_band_is_not_read_to_its_end_and_the_verdict_says_so(
    project, monkeypatch
):
    first, *others = pairs_of(project, [QUESTION, QUESTION + " Briefly", "Why is it?"])
    check_waiting(most=1)
    monkeypatch.setattr(neighbours, "MAX_ROWS", 1)
    project.settings["rules"]["near_duplicate"]["min_likeness"] = 1.0
    project.save()
    settle()
    assert states(first, *others) == ["accepted"] * 3
    alike, other = (pair.verdicts.get(rule="near_duplicate") for pair in others)
    assert (alike.result, other.result) == ("could_not_check", "pass")
    assert alike.reason.startswith("too many prompts are alike to compare them all")


@pytest.mark.parametrize(
    ("least", "left_out", "result"),
    [
        # Two prompts 0.9 alike share a band with 0.9⁵ = 0.590, at most two of ten with
        # 0.410¹⁰ + 10·0.590·0.410⁹ + 45·0.590²·0.410⁸ = 0.014, at most three with 0.062.
        (0.9, 2, "pass"),
        (0.9, 3, "could_not_check"),
        # 0.8 alike: none with 0.672¹⁰ = 0.019, at most one with 0.111.
        (0.8, 0, "pass"),
        (0.8, 1, "could_not_check"),
        (1.0, 9, "pass"),
        (1.0, 10, "could_not_check"),
    ],
)
def test_what_was_left_out_counts_where_it_might_well_be_near(least, left_out, result):
    facts = PairFacts("", "", near_prompt=0.5, near_left_out=left_out)
    assert run_rule("near_duplicate", facts, {"min_likeness": least}).result == result


def test_a_pair_let_through_has_those_alone_asked_again_that_are_near(project):
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    texts = variants(60)
    first = unchecked(make_prompt(texts[0], project=project), chosen="Too short.")
    pairs = [first, *pairs_of(project, texts[1:])]
    settle()
    was = left(pairs)
    let_through(first, rita, "fine")
    asked = PreferencePair.objects.filter(state="unchecked")
    near = [at for at in was if likeness(runs(texts[0]), runs(texts[at])) >= 0.9]
    assert 0 < len(near) < len(was) / 2
    assert {pair.pk for pair in asked} == {pairs[at].pk for at in near}
    settle()
    assert left(pairs) == that_stay(texts)

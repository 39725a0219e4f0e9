"""Pure parts of the simulation: verdicts by taste, and figures of answers."""

import random
from types import SimpleNamespace

import pytest

from inference.errors import InferenceError
from inference.starter.tastes import TASTES, WANTED
from tests.factories import make_project, make_prompt
from training import measuring
from training.management.commands.simulate import table
from training.measuring import Measure, summary
from training.simulation import RoundReport, verdict_of

LIST = "1. Boil water.\n2. Add tea.\n3. Wait."
PLAIN = "Boil water and add the tea."


@pytest.mark.parametrize(
    "taste, first, second, verdict",
    [
        ("lists", LIST, PLAIN, "first"),
        ("lists", PLAIN, LIST, "second"),
        ("lists", LIST, LIST + "\n4. Drink.", "tie"),
        ("lists", PLAIN, PLAIN + "!", "tie"),
        ("short", "Yes.", PLAIN * 4, "first"),
        ("long", "Yes.", PLAIN * 8, "second"),
        ("short", "Yes.", PLAIN, "tie"),  # both are of the wanted kind
    ],
)
def test_a_taste_gives_the_verdict_and_equal_scores_are_a_tie(
    taste, first, second, verdict
):
    assert verdict_of(TASTES[taste], first, second, random.Random(0)) == verdict


def test_noise_flips_its_share_of_verdicts_and_no_ties():
    """1000 verdicts with noise 0.3: 300 flipped give or take 3·√(1000·0.3·0.7) = 44."""
    rng = random.Random(7)
    found = [verdict_of(TASTES["lists"], LIST, PLAIN, rng, 0.3) for _ in range(1000)]
    assert abs(found.count("second") - 300) < 44
    ties = {verdict_of(TASTES["lists"], PLAIN, PLAIN, rng, 0.3) for _ in range(50)}
    assert ties == {"tie"}


def test_figures_of_answers():
    """Four answers: two lists, three different texts, one cut off; columns 35 + 35 +
    27 + 4 = 101, a quarter of which is 25.25. No question names a topic we know."""
    answers = [
        ("?", LIST, "stop"),
        ("?", LIST, "length"),
        ("?", PLAIN, "stop"),
        ("?", "好的", "stop"),
    ]
    measure = summary("policy-x", answers, WANTED["lists"])
    assert measure.wanted == 0.5
    assert measure.distinct == 0.75
    assert measure.cut_off == 0.25
    assert measure.on_topic is None
    assert measure.mean_length == 25.25


def test_a_server_that_restarts_is_waited_for_and_one_that_refuses_is_not(monkeypatch):
    monkeypatch.setattr(measuring, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(measuring, "connection", SimpleNamespace(close=lambda: None))
    asked = []

    def ask():
        asked.append(1)
        if len(asked) < 3:
            raise InferenceError("starting")
        return ["an answer"]

    assert measuring._patiently(ask) == ["an answer"]

    def refuse():
        raise InferenceError("no such model", permanent=True)

    with pytest.raises(InferenceError, match="no such model"):
        measuring._patiently(refuse)


def test_the_table_has_a_line_for_each_round():
    before = Measure("a", 0.1, 0.95, 1.0, 90.0, 0.0)
    after = Measure("b", 0.85, None, 0.9, 120.0, 0.05)
    lines = table(
        [RoundReport(1, 60, 21, 1.234, before, after, 42.0)], "lists"
    ).splitlines()
    assert len(lines) == 2 and len(lines[0]) == len(lines[1])
    for cell in ("60", "21", "1.23", "10% → 85%", "–", "90%", "120", "5%", "42 s"):
        assert cell in lines[1]


@pytest.mark.django_db
def test_prompts_to_measure_are_spread_over_all_of_them():
    project = make_project()
    asked = [make_prompt(project=project, is_held_out=True) for _ in range(5)]
    make_prompt(project=project)
    # The first of each third of five: 0, 5/3 and 10/3, rounded down.
    third = [asked[0].messages, asked[1].messages, asked[3].messages]
    assert measuring.prompts_to_measure(project, 3) == third
    assert len(measuring.prompts_to_measure(project, 9)) == 5

"""Rules were changed: what the former ones said stays to be seen, and trains nothing."""

import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
from django.db import IntegrityError, connections, transaction
from django.urls import reverse

from annotation import checking
from annotation.checking import check_again, check_pair, check_waiting
from annotation.dataset_card import card
from annotation.deciding import supersede
from annotation.errors import NothingToDo, PairsChanged
from annotation.export_filters import Wanted
from annotation.models import PreferencePair, Prompt, Role, RuleVerdict
from annotation.previewing import preview
from annotation.projects import update_project
from annotation.queries import funnel
from annotation.reviewing import let_through
from tests.acts import freeze
from tests.factories import (
    make_comparison,
    make_pair,
    make_project,
    make_prompt,
    make_unchecked,
    make_user,
)
from training.errors import RoundRefused
from training.rounds import start_round

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

OTHER = "It depends: pressure falls with height and the boiling point with it."


def unchecked(project, width):
    prompt = make_prompt(project=project)
    return make_unchecked(prompt, "x" * width, OTHER)


@pytest.fixture
def pairs(project):
    """Three accepted ones, 60, 70 and 80 columns wide."""
    found = [unchecked(project, width) for width in (60, 70, 80)]
    check_waiting()
    return found


def ask_for(project, columns):
    rules = {"chosen_width": {"min_columns": columns}}
    update_project(project, settings={"rules": rules})


def now(pairs):
    """[(state, is it due)] of the pairs."""
    states = {pair.pk: pair for pair in PreferencePair.objects.all()}
    return [(states[pair.pk].state, states[pair.pk].is_due) for pair in pairs]


def steps(project):
    return {step["step"]: step for step in funnel(project)}


def test_what_the_former_rules_said_stays_until_a_pairs_turn_comes(
    project, pairs, monkeypatch
):
    monkeypatch.setattr(checking, "BATCH", 2)
    ask_for(project, 75)
    assert now(pairs) == [("accepted", True)] * 3
    before = steps(project)
    assert (before["checked"]["count"], before["checked"]["due"]) == (3, 3)
    assert before["sound"]["count"] == 3
    assert RuleVerdict.objects.filter(rule="chosen_width", result="pass").count() == 3

    assert check_waiting(most=2) == 2
    assert now(pairs) == [("rejected", False), ("rejected", False), ("accepted", True)]
    between = steps(project)
    assert (between["checked"]["due"], between["sound"]["count"]) == (1, 1)

    assert check_waiting() == 1
    assert now(pairs)[2] == ("accepted", False)
    after = steps(project)
    assert (after["checked"]["due"], after["sound"]["count"]) == (0, 1)
    assert check_waiting() == 0


def test_no_round_starts_meanwhile_and_it_says_why(project, pairs, manager):
    ask_for(project, 65)
    with pytest.raises(RoundRefused, match="3 pairs are being checked again") as error:
        start_round(project, manager)
    assert error.value.status == 422
    assert {step["step"]: step for step in error.value.funnel}["sound"]["count"] == 3
    check_waiting()
    training_round = start_round(project, manager)
    taken = training_round.round_pairs.values_list("pair", flat=True)
    assert set(taken) == {pair.pk for pair in pairs[1:]}
    # Another project's pairs are no reason to wait, nor is a first check.
    unchecked(project, 90)
    ask_for(project, 85)
    assert now(pairs[1:]) == [("accepted", False)] * 2, "what a round has stays"


def test_a_pair_that_is_due_is_not_frozen(project, pairs):
    ask_for(project, 65)
    with pytest.raises(PairsChanged):
        freeze(project, *pairs)
    check_waiting()
    freeze(project, *pairs[1:])
    with pytest.raises(IntegrityError), transaction.atomic():
        PreferencePair.objects.filter(pk=pairs[1].pk).update(is_due=True)


def test_a_pair_that_cannot_be_checked_holds_up_no_round(
    project, pairs, manager, monkeypatch
):
    ask_for(project, 65)
    real = checking.facts_of

    def breaks(pair, *args):
        if pair.pk == pairs[0].pk:
            raise RuntimeError("odd")
        return real(pair, *args)

    monkeypatch.setattr(checking, "facts_of", breaks)
    assert check_waiting() == 2
    assert now(pairs) == [("unchecked", False), *[("accepted", False)] * 2]
    assert start_round(project, manager).round_pairs.count() == 2


def test_rules_that_change_within_a_check_count(project, pairs, monkeypatch):
    """What was found by the rules as they were is not stored as if it were by these."""
    ask_for(project, 65)
    real, changed = checking.validation.check, []

    def check(facts, rules):
        found = real(facts, rules)
        if not changed:
            changed.append(1)
            ask_for(project, 75)
        return found

    monkeypatch.setattr(checking.validation, "check", check)
    assert check_pair(PreferencePair.objects.get(pk=pairs[1].pk)) == "rejected"
    verdict = pairs[1].verdicts.get(rule="chosen_width")
    assert verdict.params["min_columns"] == 75
    assert now(pairs[1:2]) == [("rejected", False)]


def test_nobody_lets_through_what_is_being_checked_again(project, pairs):
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    ask_for(project, 75)
    check_waiting()
    ask_for(project, 65)
    with pytest.raises(NothingToDo, match="waits for its check"):
        let_through(pairs[0], rita, "Fine.")


def test_pages_and_api_say_so(client, project, pairs):
    rita = make_user("rita", project=project, role=Role.REVIEWER)
    client.force_login(rita)
    ask_for(project, 75)
    one = reverse("pair", args=[project.slug, pairs[0].pk])
    page = client.get(one).content.decode()
    assert "being checked again" in page and "accepted" in page
    assert 'hx-trigger="load delay:2s"' in page
    listed = client.get(reverse("pairs", args=[project.slug])).content.decode()
    assert listed.count("being checked again") == 3
    waiting = client.get(reverse("pairs", args=[project.slug]), {"state": "unchecked"})
    assert len(waiting.context["pairs"]) == 3
    counts = {state: n for state, _label, n in waiting.context["filters"]}
    assert counts == {"": 3, "unchecked": 3, "accepted": 3, "rejected": 0}
    assert "Repair by an edit" not in page, "it would be drawn anew under the hands"
    call = f"/api/v1/projects/{project.slug}"
    assert client.get(call).json()["counts"]["unchecked_pairs"] == 3
    told = client.get(f"{call}/pairs/{pairs[0].pk}").json()
    assert (told["state"], told["is_due"]) == ("accepted", True)
    client.force_login(make_user("mara", project=project, role=Role.MANAGER))
    for page in ("home", "project"):
        told = client.get(reverse(page, args=[project.slug][: page != "home"]))
        said = " ".join(told.content.decode().split())
        assert "3 pairs are being checked again" in said
        assert "A round can start." not in said and "Start a round" not in said
    client.force_login(rita)
    assert preview(project, {}).waiting == 3
    assert "Of 3 pairs" in card(project, Wanted(), [], Counter())
    check_waiting()
    assert "being checked again" not in client.get(one).content.decode()
    assert client.get(call).json()["counts"]["unchecked_pairs"] == 0


@contextmanager
def meanwhile(work):
    """While another thread is at `work`, which is handed an event to set once it has
    begun; what goes wrong there fails the test."""
    begun, errors = threading.Event(), []

    def run():
        try:
            work(begun)
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    worker = threading.Thread(target=run)
    worker.start()
    try:
        assert begun.wait(30)
        yield
    finally:
        worker.join(60)
    assert not worker.is_alive() and not errors


@pytest.mark.django_db(transaction=True)
def test_rules_saved_while_a_worker_checks_are_asked_of_every_pair(db, monkeypatch):
    """Whenever it falls: a pair is due, or its verdict is by the rules as they are."""
    project = make_project()
    pairs = [unchecked(project, 60 + place) for place in range(30)]
    real = checking.check_pair

    def work(begun):
        def check(*args):
            begun.set()
            return real(*args)

        monkeypatch.setattr(checking, "check_pair", check)
        check_waiting()

    with meanwhile(work):
        for columns in (70, 75, 80):
            ask_for(project, columns)
    for pair in PreferencePair.objects.exclude(state="unchecked").filter(is_due=False):
        asked = pair.verdicts.get(rule="chosen_width").params["min_columns"]
        assert asked == 80
    check_waiting()
    widths = [60 + place for place in range(len(pairs))]
    assert now(pairs) == [
        ("accepted" if width >= 80 else "rejected", False) for width in widths
    ]


@pytest.mark.django_db(transaction=True)
def test_a_check_that_is_just_being_stored_is_waited_for(db):
    """Rules saved between its UPDATE and its commit must not miss the pair."""
    project = make_project()
    pair = unchecked(project, 60)

    def store(begun):
        with transaction.atomic():
            PreferencePair.objects.filter(pk=pair.pk).update(state="accepted")
            begun.set()
            time.sleep(0.3)

    with meanwhile(store):
        check_again(project)
    assert now([pair]) == [("accepted", True)]


@pytest.mark.django_db(transaction=True)
def test_saved_rules_and_a_check_that_reopens_another_pair_do_not_lock_each_other_out(
    db,
):
    project, older, newer = two_of_one_prompt("unchecked")
    with meanwhile(a_check_of(newer, older)):
        check_again(project)
    assert now([older, newer]) == [("unchecked", False), ("accepted", True)]


@pytest.mark.django_db(transaction=True)
def test_a_decision_that_ends_and_such_a_check_do_not_either(db):
    """It reopens both pairs, which lost to the one that it takes back."""
    _project, older, newer = two_of_one_prompt("rejected")
    for pair in (older, newer):
        RuleVerdict.objects.create(pair=pair, rule="contradiction", result="reject")
        PreferencePair.objects.filter(pk=pair.pk).update(chosen_hash=1, rejected_hash=2)
    comparison = make_comparison(prompt=older.prompt)
    gone = make_pair(comparison=comparison, chosen_hash=2, rejected_hash=1)
    with meanwhile(a_check_of(newer, older)):
        supersede(gone.decision)
    assert now([older, newer]) == [("unchecked", False), ("unchecked", False)]


def two_of_one_prompt(state):
    project = make_project()
    older = unchecked(project, 60)
    PreferencePair.objects.filter(pk=older.pk).update(state=state)
    comparison = make_comparison(prompt=older.prompt)
    return project, older, make_pair(comparison=comparison, state=state)


def a_check_of(pair, older):
    """A check holds its prompt and pair, then marks an older pair of that prompt."""

    def store(begun):
        with transaction.atomic():
            Prompt.objects.select_for_update(no_key=True).get(pk=pair.prompt_id)
            PreferencePair.objects.filter(pk=pair.pk).update(state="accepted")
            begun.set()
            time.sleep(0.3)
            PreferencePair.objects.filter(pk=older.pk).update(state="unchecked")

    return store

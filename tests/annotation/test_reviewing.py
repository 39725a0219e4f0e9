"""A reviewer lets pairs through and repairs them; both leave a trace."""

from importlib import import_module

import pytest
from django.apps import apps
from django.utils import timezone

from annotation.checking import check_again, check_pair, check_waiting
from annotation.errors import Frozen, InvalidRepair, NothingToDo, PairsChanged
from annotation.exporting import rows
from annotation.judging import undo
from annotation.models import LetThrough, PreferencePair, Role
from annotation.previewing import preview
from annotation.projects import update_project
from annotation.queries import funnel, rule_counts, sound_pairs
from annotation.reviewing import let_through, repair, take_back
from annotation.validation import RULES, RuleResult
from tests.acts import freeze
from tests.factories import (
    make_comparison,
    make_completion,
    make_imported,
    make_judgment,
    make_pair,
    make_prompt,
    make_unchecked,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

GOOD = "Water boils at a hundred degrees at sea level, lower on a mountain."
OTHER = "It depends: pressure falls with height and the boiling point with it."
SHORT = "Too short."


def checked(project, chosen=GOOD, rejected=OTHER):
    prompt = make_prompt(project=project)
    pair = make_unchecked(prompt, chosen, rejected)
    check_pair(pair)
    return pair


def state(pair):
    return PreferencePair.objects.get(pk=pair.pk).state


def steps(project):
    return {step["step"]: step for step in funnel(project)}


# --- Letting through -------------------------------------------------------------------
def test_a_pair_let_through_trains_and_keeps_the_trace(project, rita):
    pair = checked(project, SHORT, "No.")
    assert state(pair) == "rejected"
    word = let_through(pair, rita, " Short is what was asked for. ")

    assert state(pair) == "accepted"
    assert list(sound_pairs(project)) == [pair]
    assert (word.by, word.note) == (rita, "Short is what was asked for.")
    assert word.rules == ["chosen_width", "rejected_width"]
    told = pair.verdicts.filter(is_let_through=True).values_list("rule", "result")
    assert set(told) == {("chosen_width", "reject"), ("rejected_width", "reject")}
    freeze(project, pair)


def test_it_survives_being_checked_again_but_another_rule_still_counts(project, rita):
    pair = checked(project, SHORT)
    let_through(pair, rita, "Short is fine here.")
    update_project(project, settings={"rules": {"chosen_width": {"min_columns": 80}}})
    assert PreferencePair.objects.get(pk=pair.pk).is_due
    check_waiting()
    assert state(pair) == "accepted"

    update_project(project, settings={"rules": {"rejected_width": {"min_columns": 90}}})
    check_waiting()
    assert state(pair) == "rejected", "nobody has said that this rule is wrong"
    second = let_through(pair, rita, "That one is, too.")
    assert second.rules == ["chosen_width", "rejected_width"]
    assert state(pair) == "accepted"
    first, standing = LetThrough.objects.filter(pair=pair)
    assert first.taken_back_at is not None and standing == second


def test_taken_back_the_rules_count_again_and_the_trace_stays(project, rita):
    pair = checked(project, SHORT)
    let_through(pair, rita, "Fine.")
    other = make_user("rob", project=project, role=Role.REVIEWER)
    take_back(pair, other)

    assert state(pair) == "rejected"
    word = LetThrough.objects.get(pair=pair)
    assert (word.by, word.taken_back_by) == (rita, other)
    assert not pair.verdicts.filter(is_let_through=True).exists()
    with pytest.raises(NothingToDo):
        take_back(pair, other)
    let_through(pair, rita, "No, it is fine.")
    assert state(pair) == "accepted"


def test_nothing_is_let_through_without_a_reason_or_an_objection(project, rita):
    rejected, sound = checked(project, SHORT), checked(project)
    for note in ("", "   ", "x" * 501, "nul \0"):
        with pytest.raises(InvalidRepair) as refused:
            let_through(rejected, rita, note)
        assert refused.value.field == "note"
    with pytest.raises(NothingToDo):
        let_through(sound, rita, "Why not?")
    check_again(project)
    with pytest.raises(NothingToDo):
        let_through(rejected, rita, "Before its check is done.")
    assert not LetThrough.objects.exists()


def test_a_frozen_pair_is_neither_let_through_nor_taken_back_nor_repaired(
    project, rita
):
    pair = checked(project, SHORT)
    let_through(pair, rita, "Fine.")
    freeze(project, pair)
    for act in (
        lambda: let_through(pair, rita, "Again."),
        lambda: take_back(pair, rita),
        lambda: repair(pair, rita, chosen=GOOD, rejected=OTHER),
    ):
        with pytest.raises(Frozen):
            act()
    assert state(pair) == "accepted"
    assert LetThrough.objects.get().taken_back_at is None


def test_once_taken_back_no_round_can_freeze_it(project, rita):
    pair = checked(project, SHORT)
    let_through(pair, rita, "Fine.")
    take_back(pair, rita)
    with pytest.raises(PairsChanged):
        freeze(project, pair)


def test_what_could_not_be_checked_can_be_let_through_where_it_blocks(
    project, rita, monkeypatch
):
    def broken(facts, params):
        raise ZeroDivisionError("so it goes")

    monkeypatch.setitem(RULES, "identity", broken)
    project.settings = {"accept_unchecked": False}
    project.save()
    pair = checked(project)
    assert state(pair) == "rejected"
    assert let_through(pair, rita, "I looked.").rules == ["identity"]
    assert state(pair) == "accepted"


def test_what_could_not_be_checked_and_was_let_through_may_still_be_rejected(
    project, rita, monkeypatch
):
    """The reviewer has seen that nobody could count, not that it is far too long."""

    def fits(result, reason):
        said = RuleResult(result, reason)
        monkeypatch.setitem(RULES, "max_length", lambda facts, params: said)
        check_again(project)
        check_waiting()

    project.settings = {"accept_unchecked": False}
    project.save()
    pair = checked(project)
    fits("could_not_check", "the tokens could not be counted")
    let_through(pair, rita, "The server was down.")
    fits("could_not_check", "the tokens could not be counted")
    assert state(pair) == "accepted"
    assert preview(project, {}).accepted_then == 1
    fits("reject", "1000000 tokens with the prompt, more than 1024")
    assert state(pair) == "rejected"
    assert preview(project, {}).accepted_then == 0
    assert not pair.verdicts.filter(is_let_through=True).exists()
    let_through(pair, rita, "Long is what was asked for.")
    fits("reject", "1000000 tokens with the prompt, more than 99")
    assert state(pair) == "accepted"


def test_another_kind_of_reason_of_the_same_rule_still_counts(project, rita):
    """An e-mail address was let through; a card number is no e-mail address."""
    text = "Write to mara@tiebreak.de and pay with 4539 5787 6362 1486, as you like it."
    kinds = {"emails": True, "cards": False}
    update_project(project, settings={"rules": {"personal_data": kinds}})
    pair = checked(project, text)
    assert let_through(pair, rita, "Hers, she said.").rules == ["personal_data"]
    kinds = {"emails": True, "cards": True}
    update_project(project, settings={"rules": {"personal_data": kinds}})
    check_waiting()
    assert state(pair) == "rejected"
    assert "card number" in pair.verdicts.get(rule="personal_data").reason


def test_what_was_seen_is_kept_of_words_from_before_that(project, rita):
    pair = checked(project, SHORT, "No.")
    word = let_through(pair, rita, "Fine.")
    kept = word.seen
    assert set(kept) == {"chosen_width", "rejected_width"}
    LetThrough.objects.update(seen={})
    migration = import_module("annotation.migrations.0021_let_through_seen")
    migration.keep_what_was_seen(apps, None)
    word.refresh_from_db()
    assert word.seen == kept


def test_a_rule_that_breaks_is_counted_and_rejects_nothing(project, monkeypatch):
    def broken(facts, params):
        raise ZeroDivisionError("so it goes")

    monkeypatch.setitem(RULES, "identity", broken)
    monkeypatch.setitem(
        RULES, "language", lambda facts, params: RuleResult("could_not_check", "hm")
    )
    project.settings = {"rules": {"language": {"on": True}}}
    project.save()
    pairs = [checked(project), checked(project), checked(project, SHORT)]
    assert [state(pair) for pair in pairs] == ["accepted", "accepted", "rejected"]
    none = {"reject": 0, "could_not_check": 0, "broke": 0, "let_through": 0}
    assert rule_counts(project) == {
        "chosen_width": none | {"reject": 1},
        "identity": none | {"could_not_check": 3, "broke": 3},
        "language": none | {"could_not_check": 3},
    }


def test_the_funnel_counts_what_was_let_through_as_accepted(project, rita):
    """Three short ones, one of them let through, one also cut; one sound pair."""
    for _ in range(2):
        checked(project, SHORT)
    let_through(checked(project, SHORT), rita, "Fine.")
    checked(project)
    found = steps(project)
    assert found["chosen_width"]["lost"] == {"chosen_width": 2}
    assert found["accepted"]["count"] == 2 and found["accepted"]["let_through"] == 1
    assert found["accepted"]["lost"] == {}
    assert found["sound"]["count"] == 2


def test_the_funnel_blames_the_rule_that_was_not_let_through(project, rita):
    pair = checked(project, SHORT)
    let_through(pair, rita, "Fine.")
    update_project(project, settings={"rules": {"rejected_width": {"min_columns": 90}}})
    check_waiting()
    found = steps(project)
    assert found["chosen_width"]["lost"] == {}
    assert found["rejected_width"]["lost"] == {"rejected_width": 1}
    assert found["accepted"]["let_through"] == 0


# --- Repairing -----------------------------------------------------------------------------
def test_a_repair_makes_a_pair_that_takes_the_old_ones_place(project, rita):
    old = checked(project, SHORT)
    old.weight, old.extra = 0.5, {"source": "a file"}
    old.save()
    made = repair(old, rita, chosen=GOOD, rejected=OTHER, note="too short")

    old.refresh_from_db()
    assert old.superseded_at is not None and old.state == "rejected"
    assert (made.repaired_from, made.repairer) == (old, rita)
    assert made.repair_note == "too short"
    assert (made.kind, made.decision, made.weight, made.extra) == (
        "judged",
        old.decision,
        0.5,
        {"source": "a file"},
    )
    edited = made.chosen
    assert (edited.source, edited.edited_from, edited.author) == (
        "edited",
        old.chosen,
        rita,
    )
    assert edited.html == f"<p>{GOOD}</p>\n"
    assert made.rejected == old.rejected, "what was not changed stays the same answer"
    assert old.chosen.text == SHORT
    assert state(made) == "unchecked" and not sound_pairs(project).exists()
    check_waiting()
    assert list(sound_pairs(project)) == [made]
    (row,) = rows(sound_pairs(project))
    assert row["chosen"][0]["content"] == GOOD


def test_a_repair_may_change_both_and_be_repaired_again(project, rita):
    old = checked(project, SHORT, "No.")
    once = repair(old, rita, chosen=GOOD, rejected=OTHER)
    twice = repair(once, rita, chosen=GOOD + " So.", rejected=OTHER)
    assert twice.repaired_from == once and once.repaired_from == old
    standing = PreferencePair.objects.filter(decision=old.decision, superseded_at=None)
    assert list(standing) == [twice]
    assert twice.rejected == once.rejected != old.rejected


def test_who_comes_second_is_refused_and_told(project, rita):
    old = checked(project, SHORT)
    repair(old, rita, chosen=GOOD, rejected=OTHER)
    for act in (
        lambda: repair(old, rita, chosen=GOOD + "!", rejected=OTHER),
        lambda: let_through(old, rita, "Fine."),
        lambda: take_back(old, rita),
    ):
        with pytest.raises(NothingToDo):
            act()
    assert PreferencePair.objects.count() == 2


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("chosen", {"chosen": SHORT + "\r\n", "rejected": OTHER}),  # nothing changed
        ("chosen", {"chosen": " \n", "rejected": OTHER}),
        ("rejected", {"chosen": GOOD, "rejected": ""}),
        ("chosen", {"chosen": "a\0b", "rejected": OTHER}),
        ("rejected", {"chosen": GOOD, "rejected": "half \ud800"}),
        ("chosen", {"chosen": "x" * 100_001, "rejected": OTHER}),
        ("note", {"chosen": GOOD, "rejected": OTHER, "note": "x" * 501}),
    ],
)
def test_what_is_no_repair_is_named_and_changes_nothing(project, rita, field, texts):
    old = checked(project, SHORT)
    with pytest.raises(InvalidRepair) as refused:
        repair(old, rita, **texts)
    assert refused.value.field == field
    assert PreferencePair.objects.get().superseded_at is None


def test_an_answer_of_several_messages_is_not_flattened(project, rita):
    old = checked(project, SHORT)
    turns = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    old.rejected.messages = turns
    old.rejected.save()
    with pytest.raises(InvalidRepair) as refused:
        repair(old, rita, chosen=GOOD, rejected="flat")
    assert refused.value.field == "rejected"
    made = repair(old, rita, chosen=GOOD, rejected=old.rejected.text)
    assert made.rejected.messages == turns


def test_undoing_the_judgment_ends_the_repaired_pair_too(project, rita):
    prompt = make_prompt(project=project)
    a = make_completion(SHORT, prompt=prompt)
    judgment = make_judgment(comparison=make_comparison(a=a))
    old = make_pair(judgment=judgment, state="unchecked")
    check_pair(old)
    made = repair(old, rita, chosen=GOOD, rejected=OTHER)
    undo(judgment)
    made.refresh_from_db()
    assert made.superseded_at is not None


def test_an_imported_pair_is_repaired_as_an_imported_one(project, rita):
    prompt = make_prompt(project=project)
    old = make_imported(prompt, SHORT, OTHER, state="unchecked")
    made = repair(old, rita, chosen=GOOD, rejected=OTHER)
    check_waiting()
    assert list(sound_pairs(project)) == [made]


def test_saving_the_same_rules_checks_nothing_again(project):
    pair = checked(project)
    update_project(project, settings={"rules": {"similarity": {"max_ratio": 0.9}}})
    update_project(project, settings={"rules": {"language": {"min_share": 0.4}}})
    update_project(project, settings={"quota": 2}, name="Other")
    assert state(pair) == "accepted"
    update_project(project, settings={"round": {"config": {"max_length": 5}}})
    check_waiting()
    assert state(pair) == "rejected"
    reason = pair.verdicts.get(result="reject").reason
    assert reason == "7 tokens with the prompt; rounds cut at 5"


def test_superseded_rows_are_left_alone_by_a_check(project, rita):
    old = checked(project, SHORT)
    PreferencePair.objects.filter(pk=old.pk).update(superseded_at=timezone.now())
    check_again(project)
    assert not PreferencePair.objects.filter(is_due=True).exists()
    assert check_pair(PreferencePair.objects.get(pk=old.pk)) == "rejected"

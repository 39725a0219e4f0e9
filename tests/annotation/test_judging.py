"""Judgments: what is stored, repeats, late ones, undo."""

from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection
from django.http import Http404
from django.utils import timezone

from annotation import queries
from annotation.deciding import decide
from annotation.errors import (
    AlreadyUndone,
    Frozen,
    InvalidJudgment,
    OtherBody,
    TooLate,
)
from annotation.freezing import freeze_pairs
from annotation.judging import criteria_seen, judgment_for, submit_judgment, undo
from annotation.leasing import skip, take_lease
from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Slot,
)
from annotation.models.pairs import FROZEN
from annotation.redeciding import _changeable
from annotation.reviewing import repair
from annotation.stock import withdraw_stock
from tests.factories import (
    make_comparison,
    make_lease,
    make_pair,
    make_policy,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def lease(project, annotator):
    make_comparison(project=project)
    return take_lease(project, annotator)


def expire(lease):
    past = timezone.now() - timedelta(seconds=1)
    Lease.objects.filter(pk=lease.pk).update(expires_at=past)
    Slot.objects.filter(lease=lease).update(expires_at=past)


def accept(pairs):
    pairs.update(state=PreferencePair.State.ACCEPTED)


@pytest.mark.parametrize("verdict", ["first", "second"])
def test_a_pick_stores_the_completion_that_won_and_makes_its_pair(lease, verdict):
    shown = {"first": lease.first, "second": lease.second}
    judgment, is_replay = vars(submit_judgment(lease, verdict=verdict)).values()

    assert not is_replay
    assert judgment.winner == shown[verdict]
    pair = PreferencePair.objects.get()
    assert pair.chosen == judgment.winner
    assert {pair.chosen, pair.rejected} == {lease.first, lease.second}
    assert (pair.state, pair.kind, pair.weight) == ("unchecked", "judged", 1.0)
    assert pair.decision.outcome == Decision.Outcome.WINNER
    lease.refresh_from_db()
    assert lease.outcome == Lease.Outcome.JUDGED
    assert Slot.objects.get().state == Slot.State.JUDGED
    assert Comparison.objects.get().state == Comparison.State.DECIDED


@pytest.mark.parametrize("verdict", ["tie", "both_bad"])
def test_a_verdict_without_a_winner_is_decided_and_makes_no_pair(lease, verdict):
    judgment = submit_judgment(lease, verdict=verdict, strength=2).judgment

    assert (judgment.winner, judgment.strength) == (None, None)
    assert Decision.objects.get().outcome == verdict
    assert not PreferencePair.objects.exists()


def test_seconds_are_measured_by_the_servers_clock(lease):
    Lease.objects.filter(pk=lease.pk).update(
        created_at=timezone.now() - timedelta(seconds=30)
    )
    lease.refresh_from_db()
    seconds = submit_judgment(lease, verdict="tie").judgment.seconds
    assert 30 <= seconds < 90


def test_the_same_submit_again_answers_the_same_and_changes_nothing(lease):
    body = {
        "verdict": "first",
        "strength": 2,
        "reasons": ["correct"],
        "comment": "clear",
        "edited": "A better answer.",
    }
    first = submit_judgment(lease, **body)
    again = submit_judgment(Lease.objects.get(), **body)

    assert again.judgment == first.judgment
    assert (first.is_replay, again.is_replay) == (False, True)
    assert Judgment.objects.count() == 1
    assert Completion.objects.filter(source="edited").count() == 1


@pytest.mark.parametrize(
    "change",
    [{"verdict": "second"}, {"comment": "!"}, {"strength": 1}, {"edited": "Other."}],
)
def test_the_same_key_with_another_body_is_refused(lease, change):
    submit_judgment(lease, verdict="first")
    with pytest.raises(OtherBody):
        submit_judgment(lease, **({"verdict": "first"} | change))
    assert Judgment.objects.get().verdict == "first"


def test_a_replay_after_undo_still_answers_the_same_judgment(lease):
    judgment = submit_judgment(lease, verdict="first").judgment
    fresh = undo(judgment)
    again = submit_judgment(lease, verdict="first")

    assert (again.judgment, again.is_replay) == (judgment, True)
    assert Judgment.objects.filter(undone_at=None).count() == 0
    fresh.refresh_from_db()
    assert fresh.outcome == Lease.Outcome.ACTIVE


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("verdict", {"verdict": "a"}),
        ("verdict", {"verdict": None}),
        ("verdict", {"verdict": ["first"]}),
        ("strength", {"verdict": "first", "strength": 4}),
        ("strength", {"verdict": "first", "strength": True}),
        ("strength", {"verdict": "first", "strength": "2"}),
        ("reasons", {"verdict": "first", "reasons": "correct"}),
        ("reasons", {"verdict": "first", "reasons": [1]}),
        ("reasons", {"verdict": "first", "reasons": ["x" * 61]}),
        ("reasons", {"verdict": "first", "reasons": ["x"] * 21}),
        ("comment", {"verdict": "first", "comment": "nul\0"}),
        ("comment", {"verdict": "first", "comment": "half \ud83d"}),
        ("comment", {"verdict": "first", "comment": 3}),
        ("comment", {"verdict": "first", "comment": "x" * 10_001}),
        ("edited", {"verdict": "first", "edited": " \n "}),
        ("edited", {"verdict": "tie", "edited": "Better."}),
        ("edited", {"verdict": "both_bad", "edited": "Better."}),
        ("criteria", {"verdict": "first", "criteria": {"helpful": "first"}}),
        ("criteria", {"verdict": "first", "criteria": ["helpful"]}),
    ],
)
def test_what_makes_no_judgment_is_refused_by_field_and_the_lease_stays(
    lease, field, body
):
    with pytest.raises(InvalidJudgment) as refused:
        submit_judgment(lease, **body)
    assert refused.value.field == field
    assert (refused.value.status, bool(refused.value.message)) == (422, True)
    assert Slot.objects.get().state == "leased"
    assert not Judgment.objects.exists()


def with_criteria(lease, *names):
    lease.project.settings = {"criteria": list(names)}
    lease.project.save()
    return lease


def test_criteria_are_stored_by_completion_and_told_as_they_were_seen(lease):
    with_criteria(lease, "helpful", "harmless", "honest")
    judgment = submit_judgment(
        lease, verdict="first", criteria={"harmless": "tie", "helpful": "second"}
    ).judgment
    judgment.refresh_from_db()
    assert judgment.criteria == {"helpful": lease.second_id, "harmless": None}
    assert criteria_seen(judgment) == {"helpful": "second", "harmless": "tie"}


def test_criteria_are_part_of_the_body_that_a_repeat_must_have(lease):
    with_criteria(lease, "helpful")
    submit_judgment(lease, verdict="tie", criteria={"helpful": "first"})
    again = submit_judgment(lease, verdict="tie", criteria={"helpful": "first"})
    assert again.is_replay
    for other in ({"helpful": "second"}, {}, None):
        with pytest.raises(OtherBody):
            submit_judgment(lease, verdict="tie", criteria=other)


def test_no_criteria_and_empty_criteria_are_the_same_body(lease):
    submit_judgment(lease, verdict="tie")
    assert submit_judgment(lease, verdict="tie", criteria={}).is_replay


@pytest.mark.parametrize("criteria", [{"kind": "first"}, {"helpful": "both_bad"}])
def test_an_unknown_criterion_or_verdict_is_refused_and_the_lease_stays(
    lease, criteria
):
    with_criteria(lease, "helpful")
    with pytest.raises(InvalidJudgment) as refused:
        submit_judgment(lease, verdict="first", criteria=criteria)
    assert refused.value.field == "criteria"
    assert "helpful" in refused.value.message
    assert Slot.objects.get().state == "leased"


def test_a_criterion_taken_out_of_the_project_still_answers_its_repeat(lease):
    with_criteria(lease, "helpful")
    submit_judgment(lease, verdict="tie", criteria={"helpful": "first"})
    with_criteria(lease)
    again = submit_judgment(lease, verdict="tie", criteria={"helpful": "first"})
    assert again.is_replay


def test_an_edit_that_changes_nothing_is_refused(lease):
    same = f"  {lease.second.text}\n"
    with pytest.raises(InvalidJudgment) as refused:
        submit_judgment(lease, verdict="second", edited=same)
    assert refused.value.field == "edited"


def test_an_edit_into_the_other_answer_is_refused(lease):
    """It would say that the other one is the better one after all."""
    with pytest.raises(InvalidJudgment) as refused:
        submit_judgment(lease, verdict="second", edited=f"{lease.first.text} ")
    assert refused.value.field == "edited"


def test_what_a_round_has_used_is_found_by_an_index(project, annotator):
    """Undoing, the last ten and deciding anew ask it of single decisions: among millions
    of pairs none may be looked at for that but the decision's own."""
    pair = make_pair(project=project, annotator=annotator)
    of_one = PreferencePair.objects.filter(FROZEN, decision=pair.decision)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
            # As if there were many: of one pair every index is as good as another.
            cursor.execute(
                "UPDATE pg_class SET reltuples = 1000000, relpages = 1"
                " WHERE relname = 'annotation_preferencepair'"
            )
        asked = (of_one, queries.my_history(project, annotator), _changeable(project))
        for rows in asked:
            assert "pair_once_a_decision" in rows.explain()


def test_an_edited_answer_gives_edited_over_better_over_worse(lease, annotator):
    submit_judgment(lease, verdict="second", edited="Improved\r\nanswer.")

    edited = Completion.objects.get(source="edited")
    assert edited.text == "Improved\nanswer."
    assert (edited.edited_from, edited.author) == (lease.second, annotator)
    assert "Improved" in edited.html
    pairs = {
        pair.kind: (pair.chosen, pair.rejected) for pair in PreferencePair.objects.all()
    }
    assert pairs == {
        "judged": (lease.second, lease.first),
        "edited": (edited, lease.second),
    }


def pick(lease, winner, edited="", **said):
    verdict = "first" if lease.first_id == winner.pk else "second"
    return submit_judgment(lease, verdict=verdict, edited=edited, **said).judgment


def edits():
    """(what somebody made of it, the winner, weight) of the standing edited pairs."""
    standing = PreferencePair.objects.filter(kind="edited", superseded_at=None)
    return set(standing.values_list("chosen__text", "rejected", "weight"))


def standing_judged():
    return PreferencePair.objects.get(kind="judged", superseded_at=None)


def test_every_different_edit_of_the_winner_makes_a_pair(
    project, annotator, other_annotator
):
    """Equal ones are one, and what improved the loser trains nothing. Each weighs 1,
    however many there are and however much better the winner was."""
    project.settings |= {"strength_weights": {"3": 2.0}}
    project.save()
    comparison = make_comparison(project=project, quota=5)
    a, b = comparison.a, comparison.b
    people = [annotator, other_annotator, *(make_user(project=project) for _ in "123")]
    texts = ["Better.", "Better still.", "Better.\n", "", "Not so bad."]
    for user, text in zip(people, texts, strict=True):
        won = b if text == "Not so bad." else a
        pick(take_lease(project, user), won, text, strength=3)
    assert edits() == {("Better.", a.pk, 1.0), ("Better still.", a.pk, 1.0)}
    assert PreferencePair.objects.count() == 3
    assert standing_judged().weight == 2.0
    assert Judgment.objects.filter(edited__isnull=False).count() == 4

    # Deciding again what stays as it was keeps all of it.
    kept = set(PreferencePair.objects.values_list("pk", flat=True))
    decision = decide(comparison)
    assert decide(comparison) == decision
    standing = PreferencePair.objects.filter(superseded_at=None)
    assert set(standing.values_list("pk", flat=True)) == kept


def test_the_pairs_of_edits_follow_who_stands_for_the_winner(
    project, annotator, other_annotator
):
    comparison = make_comparison(project=project, quota=3)
    a, b = comparison.a, comparison.b
    said = [
        pick(take_lease(project, user), won, text)
        for user, won, text in [
            (annotator, a, "A1"),
            (other_annotator, a, "A2"),
            (make_user(project=project), b, "B1"),
        ]
    ]
    assert edits() == {("A1", a.pk, 1.0), ("A2", a.pk, 1.0)}

    fresh = undo(said[1])
    assert edits() == set()
    again = pick(fresh, a, "A3")
    assert edits() == {("A1", a.pk, 1.0), ("A3", a.pk, 1.0)}

    pick(undo(again), b, "B2")
    assert edits() == {("B1", b.pk, 1.0), ("B2", b.pk, 1.0)}
    pair = standing_judged()
    assert (pair.chosen, pair.rejected) == (b, a)

    # One of them in a round holds all that it was decided by.
    accept(PreferencePair.objects.filter(superseded_at=None))
    freeze_pairs(project, [PreferencePair.objects.get(chosen__text="B2")])
    for judgment in Judgment.objects.filter(undone_at=None):
        with pytest.raises(Frozen):
            undo(judgment)
    assert edits() == {("B1", b.pk, 1.0), ("B2", b.pk, 1.0)}


def test_edits_that_made_no_pair_before_are_paired_by_the_migration(
    project, annotator, other_annotator
):
    comparison = make_comparison(project=project, quota=4)
    a = comparison.a
    people = [annotator, other_annotator, *(make_user(project=project) for _ in "12")]
    for user, text in zip(people, ["A1", "A2", "A1 ", "B1"], strict=True):
        pick(take_lease(project, user), comparison.b if text == "B1" else a, text)
    both = edits()
    accept(PreferencePair.objects)
    freeze_pairs(project, [standing_judged()])
    # As it was: the first one alone, which a reviewer has repaired since.
    PreferencePair.objects.get(chosen__text="A2").delete()
    first = PreferencePair.objects.get(chosen__text="A1")
    reviewer = make_user(project=project, role="reviewer")
    repair(first, reviewer, chosen="A1, repaired", rejected=a.text)

    name = "annotation.migrations.0024_pairs_of_every_edit"
    pair_the_other_edits = import_module(name).pair_the_other_edits
    for _ in range(2):
        pair_the_other_edits(apps, None)
        assert edits() == both - {("A1", a.pk, 1.0)} | {("A1, repaired", a.pk, 1.0)}
        made = PreferencePair.objects.get(chosen__text="A2")
        assert made.decision == standing_judged().decision
        assert made.state == "unchecked"
        assert PreferencePair.objects.count() == 4


def test_strength_becomes_the_pairs_weight_where_the_project_says_so(lease):
    lease.project.settings = {"strength_weights": {"1": 0.5}}
    lease.project.save()
    submit_judgment(lease, verdict="first", strength=1)
    assert PreferencePair.objects.get().weight == 0.5


def test_after_its_time_a_judgment_is_kept_while_the_slot_is_still_ours(lease):
    expire(lease)
    assert not submit_judgment(lease, verdict="first").is_replay


def test_a_late_judgment_takes_another_open_slot(project, annotator, other_annotator):
    make_comparison(project=project, quota=2)
    late = take_lease(project, annotator)
    expire(late)
    taker = take_lease(project, other_annotator)
    assert taker.slot.number == 1  # the expired one

    judgment = submit_judgment(late, verdict="first").judgment
    assert judgment.slot.number == 2
    late.refresh_from_db()
    assert late.outcome == Lease.Outcome.JUDGED
    submit_judgment(taker, verdict="first")
    assert Judgment.objects.count() == 2


def test_a_late_judgment_with_every_slot_taken_is_too_late(
    lease, project, other_annotator
):
    expire(lease)
    assert take_lease(project, other_annotator).comparison == lease.comparison
    with pytest.raises(TooLate):
        submit_judgment(lease, verdict="first", edited="What I typed.")
    assert not Judgment.objects.exists()
    assert not Completion.objects.filter(source="edited").exists()


def test_a_late_judgment_may_take_a_slot_whose_holder_is_late_too(
    lease, project, other_annotator
):
    expire(lease)
    other = take_lease(project, other_annotator)
    expire(other)

    submit_judgment(lease, verdict="first")
    other.refresh_from_db()
    assert other.outcome == Lease.Outcome.EXPIRED
    with pytest.raises(TooLate):
        submit_judgment(other, verdict="second")


def test_an_old_lease_of_ones_own_takes_the_slot_of_the_new_one(
    lease, project, annotator, other_annotator
):
    """Lost to another who skipped, got back by a new lease, judged in the old tab."""
    expire(lease)
    skip(take_lease(project, other_annotator))
    new = take_lease(project, annotator)
    assert new.comparison == lease.comparison

    submit_judgment(lease, verdict="first")
    with pytest.raises(TooLate):
        submit_judgment(new, verdict="first")
    assert Judgment.objects.count() == 1


def test_a_late_judgment_on_what_was_withdrawn_says_so(lease):
    expire(lease)
    assert withdraw_stock(lease.project, keep=make_policy(project=lease.project)) == 1
    # Not why: a newer policy may answer, or a reviewer have found it flagged.
    with pytest.raises(TooLate, match=r"withdrawn meanwhile\.$"):
        submit_judgment(lease, verdict="first")


def test_a_skipped_lease_takes_no_judgment(lease):
    skip(lease)
    with pytest.raises(TooLate):
        submit_judgment(lease, verdict="first")
    assert Slot.objects.get().state == "open"


def test_a_held_comparison_finishes_after_it_was_withdrawn(lease):
    Comparison.objects.update(state=Comparison.State.WITHDRAWN)
    submit_judgment(lease, verdict="first")
    assert Comparison.objects.get().state == Comparison.State.DECIDED
    assert PreferencePair.objects.count() == 1


def judge(comparison, *verdicts):
    """One judgment each for a, b, tie or both_bad, by a new annotator each time."""
    for verdict in verdicts:
        user = make_user(project=comparison.project)
        lease = take_lease(comparison.project, user)
        if verdict in ("a", "b"):
            wanted = getattr(comparison, verdict)
            verdict = "first" if lease.first == wanted else "second"
        submit_judgment(lease, verdict=verdict)


@pytest.mark.parametrize(
    ("verdicts", "outcome", "winner"),
    [
        (["a", "a"], "winner", "a"),
        (["a", "b"], "split", None),
        (["a", "b", "b"], "winner", "b"),
        (["a", "tie", "tie"], "tie", None),
        (["a", "b", "tie"], "split", None),
        (["both_bad", "both_bad", "a"], "both_bad", None),
        (["a", "a", "b", "tie"], "split", None),  # two of four are no majority
    ],
)
def test_more_than_half_of_a_filled_quota_decides(project, verdicts, outcome, winner):
    comparison = make_comparison(project=project, quota=len(verdicts))
    judge(comparison, *verdicts[:-1])
    assert not Decision.objects.exists()

    judge(comparison, verdicts[-1])
    decision = Decision.objects.get()
    assert decision.outcome == outcome
    assert decision.winner == (getattr(comparison, winner) if winner else None)
    assert PreferencePair.objects.count() == (1 if winner else 0)


@pytest.mark.parametrize("purpose", ["head_to_head", "gold", "repeat"])
def test_only_comparisons_made_for_training_give_pairs(project, annotator, purpose):
    comparison = make_comparison(project=project, purpose=purpose)
    lease = make_lease(comparison=comparison, annotator=annotator)
    submit_judgment(lease, verdict="first")
    assert Decision.objects.get().outcome == "winner"
    assert not PreferencePair.objects.exists()


def test_deciding_again_changes_nothing(lease):
    submit_judgment(lease, verdict="first")
    decision = decide(lease.comparison)
    assert decision == Decision.objects.get()
    assert PreferencePair.objects.count() == 1


def test_undo_supersedes_and_gives_the_comparison_back(lease, annotator):
    judgment = submit_judgment(lease, verdict="first").judgment
    fresh = undo(judgment_for(annotator, judgment.pk))

    assert fresh.comparison == lease.comparison
    assert fresh.key != lease.key
    assert (fresh.first, fresh.second) == (lease.first, lease.second)
    judgment.refresh_from_db()
    assert judgment.undone_at
    assert Decision.objects.get().superseded_at
    assert PreferencePair.objects.get().superseded_at
    assert Comparison.objects.get().state == Comparison.State.OPEN

    again = submit_judgment(fresh, verdict="second").judgment
    assert again.winner == lease.second
    standing = PreferencePair.objects.get(superseded_at=None)
    assert standing.chosen == lease.second
    assert PreferencePair.objects.count() == 2


def test_undo_of_one_of_two_keeps_the_others_judgment(
    project, annotator, other_annotator
):
    make_comparison(project=project, quota=2)
    mine = submit_judgment(take_lease(project, annotator), verdict="tie").judgment
    submit_judgment(take_lease(project, other_annotator), verdict="tie")
    fresh = undo(mine)
    assert Decision.objects.get().superseded_at
    submit_judgment(fresh, verdict="both_bad")
    assert Decision.objects.get(superseded_at=None).outcome == "split"


def test_undo_releases_the_lease_held_meanwhile_and_loses_nothing(
    project, annotator, lease
):
    other = make_comparison(project=project)
    judgment = submit_judgment(lease, verdict="first").judgment
    held = take_lease(project, annotator)
    assert held.comparison == other

    undo(judgment)
    held.refresh_from_db()
    assert held.outcome == Lease.Outcome.EXPIRED
    assert other.slots.get().state == Slot.State.OPEN
    # What was typed on the page of that lease still counts.
    assert submit_judgment(held, verdict="first").judgment.comparison == other


def test_undo_twice_is_refused(lease):
    judgment = submit_judgment(lease, verdict="first").judgment
    undo(judgment)
    with pytest.raises(AlreadyUndone):
        undo(judgment)


def test_undo_is_refused_once_a_round_has_frozen_the_pair(lease, project):
    judgment = submit_judgment(lease, verdict="first", edited="Better still.").judgment
    accept(PreferencePair.objects)
    freeze_pairs(project, [PreferencePair.objects.get(kind="judged")])

    with pytest.raises(Frozen):
        undo(judgment)
    judgment.refresh_from_db()
    assert judgment.undone_at is None
    assert not PreferencePair.objects.filter(superseded_at__isnull=False).exists()
    assert not Lease.objects.filter(outcome="").exists()


def test_a_judgment_is_found_by_its_own_annotator_alone(
    lease, annotator, other_annotator
):
    judgment = submit_judgment(lease, verdict="first").judgment
    assert judgment_for(annotator, str(judgment.pk)) == judgment
    for user, pk in [(other_annotator, judgment.pk), (annotator, "1")]:
        with pytest.raises(Http404):
            judgment_for(user, pk)


def test_judging_costs_the_same_queries_however_long_the_history(
    project, annotator, django_assert_max_num_queries
):
    for _ in range(12):
        make_comparison(project=project)
    for _ in range(12):
        lease = take_lease(project, annotator)
        with django_assert_max_num_queries(12):
            submit_judgment(lease, verdict="first")

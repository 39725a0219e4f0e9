"""Judgments: what is stored, repeats, what is refused, what decides."""

from datetime import timedelta

import pytest
from django.http import Http404
from django.utils import timezone

from annotation.errors import InvalidJudgment, OtherBody
from annotation.judging import criteria_seen, judgment_for, submit_judgment
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Slot,
)
from tests.acts import decide
from tests.factories import make_comparison, make_lease, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


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


def test_strength_becomes_the_pairs_weight_where_the_project_says_so(lease):
    lease.project.settings = {"strength_weights": {"1": 0.5}}
    lease.project.save()
    submit_judgment(lease, verdict="first", strength=1)
    assert PreferencePair.objects.get().weight == 0.5


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

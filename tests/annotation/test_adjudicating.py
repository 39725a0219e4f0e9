"""The adjudication queue: what waits, who may settle it, what a decision changes."""

from datetime import timedelta

import pytest
from django.http import Http404
from django.utils import timezone

from annotation.adjudicating import (
    last_settled,
    queue,
    queue_for,
    settle,
    shown_to,
    take,
    undo,
    waiting,
)
from annotation.errors import (
    AlreadyUndone,
    Frozen,
    InvalidJudgment,
    NotYours,
    Settled,
)
from annotation.judging import undo as undo_judgment
from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Membership,
    PreferencePair,
    ReviewClaim,
    Role,
)
from annotation.queries import funnel, my_history
from tests.acts import decide, freeze
from tests.factories import (
    make_comparison,
    make_judgment,
    make_member,
    make_project,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def project():
    return make_project(settings={"stock": 0})


@pytest.fixture
def ruth(project):
    return make_user("ruth", project=project, role=Role.REVIEWER)


def judged(project, *verdicts, people=None, **fields):
    """A comparison with these judgments, decided by count; factories show a first."""
    comparison = make_comparison(project=project, quota=len(verdicts))
    for verdict, user in zip(verdicts, people or [None] * len(verdicts), strict=True):
        user = user or make_user()
        make_judgment(comparison=comparison, annotator=user, verdict=verdict, **fields)
    decide(comparison)
    return comparison


def split(project, **fields):
    return judged(project, "first", "second", **fields)


def says(reviewer, comparison, completion):
    """The verdict by which this reviewer picks that answer."""
    return "first" if shown_to(reviewer, comparison)[0] == completion.pk else "second"


def standing(comparison):
    return Decision.objects.get(comparison=comparison, superseded_at=None)


# --- What waits ------------------------------------------------------------------------
def test_what_judgments_decide_does_not_wait_and_what_they_split_does(project):
    judged(project, "first", "first")
    judged(project, "tie", "tie")
    comparison = split(project)
    split(make_project())
    assert list(queue(project)) == [comparison]
    assert waiting().count() == 2


def test_what_is_still_being_judged_does_not_wait(project):
    comparison = make_comparison(project=project, quota=3)
    for verdict in ("first", "second"):
        make_judgment(comparison=comparison, verdict=verdict)
    decide(comparison)
    assert not queue(project).exists()


@pytest.mark.parametrize("purpose", ["head_to_head", "gold", "repeat"])
def test_what_does_not_train_does_not_wait(project, purpose):
    comparison = split(project)
    Comparison.objects.filter(pk=comparison.pk).update(purpose=purpose)
    assert not queue(project).exists()


def test_where_reviewers_decide_everything_judged_waits_and_nothing_trains(project):
    project.settings["decide_by"] = "reviewer"
    project.save()
    comparison = judged(project, "first")
    assert standing(comparison).outcome == "review"
    assert list(queue(project)) == [comparison]
    assert not PreferencePair.objects.exists()
    steps = {step["step"]: step for step in funnel(project)}
    assert steps["decided"]["count"] == 0
    assert steps["decided"]["lost"] == {"review": 1}


# --- Settling ----------------------------------------------------------------------------
def test_a_winner_makes_the_pair_with_the_weight_of_the_judgments_for_it(project, rita):
    project.settings["strength_weights"] = {"1": 0.5, "3": 2.0}
    project.save()
    comparison = make_comparison(project=project, quota=4)
    for verdict, strength in (("first", 3), ("first", 1), ("second", 1), ("tie", None)):
        make_judgment(comparison=comparison, verdict=verdict, strength=strength)
    old = decide(comparison)
    assert old.outcome == "split"

    verdict = says(rita, comparison, comparison.a)
    decision = settle(
        project,
        comparison.pk,
        rita,
        verdict=verdict,
        note="A is complete.",
        category="annotator_error",
    )
    assert (decision.outcome, decision.winner) == ("winner", comparison.a)
    assert (decision.method, decision.decided_by) == ("reviewer", rita)
    assert (decision.note, decision.category) == ("A is complete.", "annotator_error")
    pair = PreferencePair.objects.get()
    assert (pair.chosen, pair.rejected) == (comparison.a, comparison.b)
    assert pair.weight == (2.0 + 0.5) / 2
    assert pair.decision == decision and pair.state == "unchecked"
    old.refresh_from_db()
    assert old.superseded_at and old.outcome == "split"
    assert not queue(project).exists()


def test_an_edit_by_somebody_who_picked_the_winner_makes_its_pair_too(project, rita):
    comparison = make_comparison(project=project, quota=2)
    better = Completion.objects.create(
        prompt=comparison.prompt,
        source="edited",
        text="Better.",
        edited_from=comparison.a,
    )
    make_judgment(comparison=comparison, verdict="first", edited=better)
    make_judgment(comparison=comparison, verdict="second")
    decide(comparison)
    settle(project, comparison.pk, rita, verdict=says(rita, comparison, comparison.a))
    assert set(PreferencePair.objects.values_list("kind", "chosen")) == {
        ("judged", comparison.a_id),
        ("edited", better.pk),
    }


@pytest.mark.parametrize(
    "verdict, outcome",
    [("tie", "tie"), ("both_bad", "both_bad"), ("undecidable", "split")],
)
def test_what_has_no_winner_makes_no_pair_and_waits_no_more(
    project, rita, verdict, outcome
):
    comparison = split(project)
    decision = settle(project, comparison.pk, rita, verdict=verdict)
    assert (decision.outcome, decision.winner) == (outcome, None)
    assert not PreferencePair.objects.exists()
    assert not queue(project).exists()


def test_the_same_again_changes_nothing_and_another_verdict_is_refused(project, rita):
    comparison = split(project)
    one = settle(project, comparison.pk, rita, verdict="tie", note="same")
    assert settle(project, comparison.pk, rita, verdict="tie", note="same") == one
    with pytest.raises(Settled):
        settle(project, comparison.pk, rita, verdict="both_bad", note="same")
    assert Decision.objects.filter(method="reviewer").count() == 1


def test_another_reviewer_comes_too_late(project, rita, ruth):
    comparison = split(project)
    settle(project, comparison.pk, rita, verdict="tie")
    with pytest.raises(Settled):
        settle(project, comparison.pk, ruth, verdict="tie")
    assert standing(comparison).decided_by == rita


def test_a_reviewer_can_decide_what_no_decision_stands_on(project, rita, monkeypatch):
    """Whatever the queue is made to hold besides: here, what was judged and left open."""
    comparison = make_comparison(project=project)
    make_judgment(comparison=comparison)
    monkeypatch.setattr(
        "annotation.adjudicating.queue",
        lambda project: Comparison.objects.filter(project=project),
    )
    decision = settle(
        project, comparison.pk, rita, verdict=says(rita, comparison, comparison.b)
    )
    assert decision.winner == comparison.b
    comparison.refresh_from_db()
    assert comparison.state == "decided"


def test_what_does_not_wait_is_not_settled(project, rita):
    decided, open_one = judged(project, "first"), make_comparison(project=project)
    for comparison in (decided, open_one):
        with pytest.raises(Settled):
            settle(project, comparison.pk, rita, verdict="tie")
    for pk in (split(make_project()).pk, 10**9):
        with pytest.raises(Http404):
            settle(project, pk, rita, verdict="tie")
    assert not Decision.objects.filter(method="reviewer").exists()


@pytest.mark.parametrize(
    "field, wrong",
    [
        ("verdict", "a"),
        ("category", "boredom"),
        ("note", "x" * 10_001),
        ("note", "NUL \0"),
        ("note", "\ud800"),
    ],
)
def test_what_makes_no_decision_names_its_field(project, rita, field, wrong):
    comparison = split(project)
    with pytest.raises(InvalidJudgment) as refused:
        settle(project, comparison.pk, rita, **({"verdict": "tie"} | {field: wrong}))
    assert refused.value.field == field
    assert list(queue(project)) == [comparison]


# --- One's own judgments --------------------------------------------------------------
def test_nobody_reviews_what_they_judged_while_somebody_else_can(project, rita, ruth):
    comparison = split(project, people=[rita, None])
    assert not queue_for(project, rita).exists()
    assert list(queue_for(project, ruth)) == [comparison]
    with pytest.raises(NotYours):
        settle(project, comparison.pk, rita, verdict="tie")
    settle(project, comparison.pk, ruth, verdict="tie")


def test_where_every_reviewer_has_judged_it_any_of_them_may(project, rita):
    comparison = split(project, people=[rita, None])
    assert list(queue_for(project, rita)) == [comparison]
    manager = make_user(project=project, role=Role.MANAGER)
    assert not queue_for(project, rita).exists()
    manager.is_active = False
    manager.save()
    assert queue_for(project, rita).exists()
    Membership.objects.all().delete()
    make_member(project, rita, Role.REVIEWER)
    make_member(project, make_user())  # an annotator can't review
    settle(project, comparison.pk, rita, verdict="tie")


def test_a_judgment_taken_back_is_no_judgment(project, rita, ruth):
    comparison = make_comparison(project=project, quota=3)
    make_judgment(comparison=comparison, annotator=rita, undone_at=timezone.now())
    for verdict in ("first", "second"):
        make_judgment(comparison=comparison, verdict=verdict)
    decide(comparison)
    assert list(queue_for(project, rita)) == [comparison]


# --- Taking turns ---------------------------------------------------------------------
def test_reviewers_get_different_comparisons_the_oldest_first(project, rita, ruth):
    one, two = split(project), split(project)
    assert take(project, rita) == one
    assert take(project, ruth) == two
    assert take(project, rita) == one  # asked again: the one they look at
    assert take(project, make_user(project=project, role=Role.REVIEWER)) is None


def test_passing_by_goes_on_and_comes_round(project, rita):
    one, two, three = (split(project) for _ in range(3))
    assert take(project, rita, after=one.pk) == two
    assert take(project, rita, after=two.pk) == three
    assert take(project, rita, after=three.pk) == one
    assert take(project, rita, at=two.pk) == two
    assert ReviewClaim.objects.get().comparison == two


def test_what_somebody_left_comes_back(project, rita, ruth):
    comparison = split(project)
    assert take(project, rita) == comparison
    assert take(project, ruth) is None
    ReviewClaim.objects.update(until=timezone.now() - timedelta(seconds=1))
    assert take(project, ruth) == comparison
    assert take(project, rita) is None
    # Looking is no right: who is quicker settles it.
    settle(project, comparison.pk, rita, verdict="tie")
    assert not ReviewClaim.objects.exists()


# --- Undoing --------------------------------------------------------------------------
def test_undoing_puts_it_back_into_the_queue_and_takes_its_pair_away(project, rita):
    comparison = split(project)
    settle(project, comparison.pk, rita, verdict=says(rita, comparison, comparison.a))
    assert last_settled(project, rita).comparison == comparison
    undo(project, comparison.pk, rita, is_manager=False)
    assert (standing(comparison).outcome, standing(comparison).method) == (
        "split",
        "majority",
    )
    assert list(queue(project)) == [comparison]
    assert PreferencePair.objects.get().superseded_at
    assert last_settled(project, rita) is None
    with pytest.raises(AlreadyUndone):
        undo(project, comparison.pk, rita, is_manager=False)
    assert Decision.objects.filter(comparison=comparison).count() == 3


def test_only_the_reviewer_or_a_manager_undoes_it(project, rita, ruth):
    comparison = split(project)
    settle(project, comparison.pk, rita, verdict="tie")
    with pytest.raises(NotYours):
        undo(project, comparison.pk, ruth, is_manager=False)
    assert standing(comparison).decided_by == rita
    undo(project, comparison.pk, ruth, is_manager=True)
    with pytest.raises(Http404):
        undo(make_project(), comparison.pk, ruth, is_manager=True)


def test_what_a_round_has_used_stays(project, rita):
    comparison = split(project)
    settle(project, comparison.pk, rita, verdict=says(rita, comparison, comparison.a))
    PreferencePair.objects.update(state="accepted")
    freeze(project, *PreferencePair.objects.all())
    with pytest.raises(Frozen):
        undo(project, comparison.pk, rita, is_manager=False)
    assert standing(comparison).method == "reviewer"


def test_an_annotator_does_not_change_what_a_reviewer_decided(project, rita):
    alice = make_user("alice", project=project)
    comparison = split(project, people=[alice, None])
    settle(project, comparison.pk, rita, verdict="tie")
    mine = my_history(project, alice).get()
    assert (mine.is_settled, mine.can_undo) == (True, False)
    with pytest.raises(Settled):
        undo_judgment(mine)
    assert decide(comparison).method == "reviewer"
    assert Judgment.objects.get(pk=mine.pk).undone_at is None

    undo(project, comparison.pk, rita, is_manager=False)
    assert my_history(project, alice).get().can_undo
    undo_judgment(mine)
    assert not queue(project).exists()


def test_the_queue_is_found_by_its_index(project, django_assert_num_queries):
    """Among many decided comparisons, whose decisions have a winner."""
    from django.db import connection

    made = judged(project, "first")
    others = Comparison.objects.bulk_create(
        Comparison(
            project=project,
            prompt=made.prompt,
            a=made.a,
            b=made.b,
            policy=made.policy,
            state="decided",
        )
        for _ in range(2000)
    )
    Decision.objects.bulk_create(
        Decision(comparison=other, outcome="winner", winner=made.a) for other in others
    )
    comparison = split(project)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    with django_assert_num_queries(1):
        assert list(queue(project)) == [comparison]
    assert "decisions_without_winner" in queue(project).explain()

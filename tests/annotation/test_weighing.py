"""Weights from a project's judgments, and decisions by them: stored, read, made anew."""

import random
from unittest.mock import Mock

import pytest

from annotation import weighing
from annotation.adjudicating import settle, shown_to
from annotation.judging import submit_judgment
from annotation.leasing import take_lease
from annotation.models import (
    AnnotatorWeight,
    Decision,
    PreferencePair,
    Weighing,
)
from annotation.projects import update_project
from annotation.redeciding import decide_again, weigh_if_due
from annotation.tasks import decide_again as decide_again_task
from annotation.tasks import weigh_annotators
from annotation.weighing import newest_weights, weigh, weighing_due
from tests.acts import decide, freeze
from tests.factories import make_comparison, make_judgment, make_project, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def project():
    return make_project(settings={"stock": 0, "quota": 3, "decide_by": "weighted"})


@pytest.fixture
def people(project):
    """One who is always right, and two who toss coins."""
    return [make_user(name, project=project) for name in ("ann", "ben", "cat")]


def judged(project, people, verdicts):
    """A comparison judged so, decided by nothing yet; factories show a first."""
    comparison = make_comparison(project=project, quota=len(people))
    for user, verdict in zip(people, verdicts, strict=True):
        make_judgment(comparison=comparison, annotator=user, verdict=verdict)
    return comparison


def history(project, people, many=60):
    """Truth alternates; the first person knows it, the others follow it half the time,
    never both astray at once."""
    chance = random.Random(7)
    made = []
    for number in range(many):
        true, wrong = ("first", "second") if number % 2 else ("second", "first")
        astray = chance.choice([(wrong, true), (true, wrong), (true, true)])
        made.append(judged(project, people, (true, *astray)))
    return made


def standing(comparison):
    return Decision.objects.get(comparison=comparison, superseded_at=None)


def test_weights_are_stored_with_what_they_rest_on(project, people):
    history(project, people)
    judged(project, people[:1], ["tie"])  # judged once: says nothing of anybody
    made = weigh(project)
    assert (made.comparisons, made.judgments, made.settled) == (60, 180, 0)
    assert made.prior[0] == pytest.approx(made.prior[1])
    weights = {w.annotator.username: w for w in made.weights.all()}
    assert {w.judgments for w in weights.values()} == {60}
    assert weights["ann"].accuracy > weights["ben"].accuracy
    assert weights["ann"].accuracy > weights["cat"].accuracy
    for weight in weights.values():
        assert [sum(row) for row in weight.errors] == pytest.approx([1] * 4)


def test_too_few_comparisons_make_no_weights_and_a_majority_decides(project, people):
    history(project, people, many=weighing.LEAST_COMPARISONS - 1)
    assert weigh(project) is None
    comparison = judged(project, people, ["first", "second", "second"])
    decision = decide(comparison)
    assert (decision.method, decision.winner) == ("majority", comparison.b)
    assert (decision.posterior, decision.weighing) == (None, None)


def test_the_one_who_is_right_outweighs_the_two_who_guess(project, people):
    history(project, people, many=200)
    made = weigh(project)
    project.settings["min_posterior"] = 0.5
    project.save()
    comparison = judged(project, people, ["first", "second", "second"])
    decision = decide(comparison)
    assert (decision.outcome, decision.winner) == ("winner", comparison.a)
    assert (decision.method, decision.weighing) == ("weighted", made)
    assert 0.5 <= decision.posterior <= 1
    pair = PreferencePair.objects.get(decision=decision)
    assert pair.chosen == comparison.a


def test_below_the_wanted_certainty_it_waits_for_a_reviewer(project, people):
    history(project, people, many=200)
    weigh(project)
    project.settings["min_posterior"] = 0.999
    project.save()
    decision = decide(judged(project, people, ["first", "second", "second"]))
    assert (decision.outcome, decision.method) == ("split", "weighted")
    assert decision.posterior < 0.999
    assert not PreferencePair.objects.exists()


def test_what_was_judged_once_is_decided_by_that_judgment(project, people):
    history(project, people)
    weigh(project)
    comparison = judged(project, people[1:2], ["second"])
    decision = decide(comparison)
    assert (decision.method, decision.winner) == ("majority", comparison.b)


def test_what_does_not_train_goes_by_majority(project, people):
    history(project, people)
    weigh(project)
    comparison = judged(project, people, ["first", "second", "second"])
    comparison.purpose = "head_to_head"
    comparison.save()
    assert decide(comparison).method == "majority"


def test_somebody_whom_the_weights_have_not_seen_weighs_as_the_average(project, people):
    history(project, people)
    weigh(project)
    newcomer = make_user(project=project)
    weights = newest_weights(project.pk, [newcomer.pk, people[0].pk])
    assert set(weights.errors) == {people[0].pk}
    comparison = judged(project, [newcomer, people[0]], ["first", "first"])
    assert decide(comparison).winner == comparison.a


def test_what_a_reviewer_settled_counts_as_true(project, people):
    project.settings["decide_by"] = "majority"
    project.save()
    reviewer = make_user(project=project, role="reviewer")
    made = history(project, people)
    split = judged(project, people, ["first", "second", "tie"])
    for comparison in [*made, split]:
        decide(comparison)
    first, _second = shown_to(reviewer, split)
    verdict = "first" if first == split.a_id else "second"
    settle(project, split.pk, reviewer, verdict=verdict)
    assert weigh(project).settled == 1


def test_what_a_reviewer_left_out_counts_as_nothing_known(project, people):
    project.settings["decide_by"] = "majority"
    project.save()
    reviewer = make_user(project=project, role="reviewer")
    history(project, people)
    split = judged(project, people, ["first", "second", "tie"])
    decide(split)
    settle(project, split.pk, reviewer, verdict="undecidable")
    made = weigh(project)
    assert (made.comparisons, made.settled) == (61, 0)


def test_a_judgment_reads_weights_and_never_fits_them(
    project, people, nudges, monkeypatch
):
    history(project, people)
    weigh(project)
    monkeypatch.setattr("annotation.dawid_skene.fit", None)
    comparison = make_comparison(project=project, quota=2)
    for user in people[:2]:
        submit_judgment(take_lease(project, user), verdict="tie")
    assert standing(comparison).method == "weighted"


@pytest.mark.parametrize("always", ["tie", None])
def test_what_both_say_stays_decided_when_weights_come(project, people, always):
    """Forty comparisons, two people, who agree on all, or on three of four; but for the
    first nobody ever says tie. The fit is to leave what both say as the majority has it."""
    made = {}
    for number in range(40):
        one, other = ("first", "second") if number % 2 else ("second", "first")
        said = (one, other if number % 4 == 0 else one)
        made[judged(project, people[:2], (always, always) if always else said)] = said
    for comparison in made:
        decide(comparison)
    pairs = PreferencePair.objects.filter(superseded_at=None).count()
    assert pairs == (0 if always else 30)
    weigh_if_due(project)
    assert Weighing.objects.exists()
    for comparison, (one, other) in made.items():
        decision = standing(comparison)
        if always:
            assert decision.outcome == always
        elif one == other:
            assert decision.winner is not None
        else:
            assert decision.outcome == "split"
    assert PreferencePair.objects.filter(superseded_at=None).count() == pairs
    late = decide(judged(project, people[:2], (always or "first",) * 2))
    assert (late.method, late.outcome) == ("weighted", always or "winner")
    assert late.posterior > 0.9


def test_new_weights_supersede_what_they_change_and_nothing_else(project, people):
    by_count = history(project, people, many=200)
    project.settings["decide_by"] = "majority"
    project.save()
    swayed = judged(project, people, ["first", "second", "second"])
    frozen = judged(project, people, ["first", "second", "second"])
    once = judged(project, people[1:2], ["second"])
    for comparison in [*by_count, swayed, frozen, once]:
        decide(comparison)
    PreferencePair.objects.update(state="accepted")
    freeze(project, *PreferencePair.objects.filter(decision__comparison=frozen))
    before = {
        d.comparison_id: d.pk for d in Decision.objects.filter(superseded_at=None)
    }
    project.settings |= {"decide_by": "weighted", "min_posterior": 0.5}
    project.save()

    assert weigh_if_due(project) == 1
    after = {d.comparison_id: d.pk for d in Decision.objects.filter(superseded_at=None)}
    assert {pk for pk in after if after[pk] != before[pk]} == {swayed.pk}
    assert standing(swayed).winner == swayed.a
    old = Decision.objects.get(pk=before[swayed.pk])
    assert old.superseded_at and old.winner == swayed.b
    assert PreferencePair.objects.get(decision=old).superseded_at
    assert PreferencePair.objects.get(decision=standing(swayed)).superseded_at is None
    assert decide_again(project) == 0


def test_a_reviewers_decision_is_never_decided_anew(project, people):
    history(project, people)
    reviewer = make_user(project=project, role="reviewer")
    comparison = judged(project, people, ["first", "second", "tie"])
    decide(comparison)
    settle(project, comparison.pk, reviewer, verdict="both_bad")
    project.settings["decide_by"] = "weighted"
    project.save()
    weigh(project)
    decide_again(project)
    assert standing(comparison).outcome == "both_bad"
    assert standing(comparison).method == "reviewer"


def test_weights_are_due_when_enough_was_judged_since(project, people):
    assert weighing_due(project)
    history(project, people, many=25)
    weigh(project)
    assert not weighing_due(project)
    history(project, people, many=8)  # 24 judgments, more than 20
    assert weighing_due(project)


def test_the_clock_weighs_projects_that_decide_by_weights(project, people):
    history(project, people, many=25)
    other = make_project()
    weigh_annotators()
    assert Weighing.objects.filter(project=project).exists()
    assert not Weighing.objects.filter(project=other).exists()
    assert AnnotatorWeight.objects.count() == 3


def test_changing_how_a_project_decides_asks_for_its_decisions_anew(
    people, project, nudges, monkeypatch, django_capture_on_commit_callbacks
):
    sent = []
    monkeypatch.setattr(
        "annotation.tasks.decide_again.apply_async",
        lambda args, **options: sent.append(*args),
    )
    for settings in ({"stock": 1}, {"decide_by": "majority"}, {"min_posterior": 0.9}):
        with django_capture_on_commit_callbacks(execute=True):
            update_project(project, settings=settings)
    assert sent == [project.pk] * 2

    waiting = judged(project, people, ["first", "first", "second"])
    update_project(project, settings={"decide_by": "reviewer"})
    assert decide(waiting).outcome == "review"
    update_project(project, settings={"decide_by": "majority"})
    decide_again_task(project.pk)
    assert standing(waiting).winner == waiting.a


def test_what_a_lost_message_was_to_decide_anew_the_beat_does(
    project, people, monkeypatch, django_capture_on_commit_callbacks
):
    monkeypatch.setattr("annotation.projects.send", lambda *args: False)
    project.settings["decide_by"] = "reviewer"
    project.save()
    waiting = judged(project, people, ["first", "first", "second"])
    assert decide(waiting).outcome == "review"
    with django_capture_on_commit_callbacks(execute=True):
        update_project(project, settings={"decide_by": "majority"})

    with monkeypatch.context() as patch:
        # Its worker is killed, too.
        patch.setattr("annotation.redeciding._decided_anew", Mock(side_effect=OSError))
        with pytest.raises(OSError):
            weigh_annotators()
    assert standing(waiting).outcome == "review"
    weigh_annotators()
    assert standing(waiting).winner == waiting.a
    project.refresh_from_db()
    assert project.decide_again_since is None


def test_a_change_while_decisions_follow_the_one_before_is_followed_too(
    project, people, monkeypatch
):
    project.settings["decide_by"] = "reviewer"
    project.save()
    decide(judged(project, people, ["first", "first", "second"]))
    update_project(project, settings={"decide_by": "weighted"})
    history(project, people, many=25)

    def change_meanwhile(batch, own, weights):
        update_project(project, settings={"decide_by": "majority"})
        return []

    with monkeypatch.context() as patch:
        patch.setattr("annotation.redeciding._stale", change_meanwhile)
        decide_again_task(project.pk)
    project.refresh_from_db()
    assert project.decide_again_since is not None
    decide_again_task(project.pk)
    project.refresh_from_db()
    assert project.decide_again_since is None

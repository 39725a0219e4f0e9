"""Judgments with an improved answer: what is refused, which pairs they make."""

from importlib import import_module

import pytest
from django.apps import apps

from annotation.errors import Frozen, InvalidJudgment
from annotation.judging import submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import Completion, Judgment, PreferencePair
from annotation.reviewing import repair
from tests.acts import decide, freeze
from tests.factories import make_comparison, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


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
    PreferencePair.objects.filter(superseded_at=None).update(state="accepted")
    freeze(project, PreferencePair.objects.get(chosen__text="B2"))
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
    PreferencePair.objects.update(state="accepted")
    freeze(project, standing_judged())
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

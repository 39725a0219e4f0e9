"""Undo: what it supersedes and gives back, when it is refused."""

import pytest
from django.db import connection

from annotation import queries
from annotation.errors import AlreadyUndone, Frozen
from annotation.judging import judgment_for, submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Slot,
)
from annotation.models.pairs import FROZEN
from annotation.redeciding import _changeable
from tests.acts import freeze
from tests.factories import make_comparison, make_pair

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_a_replay_after_undo_still_answers_the_same_judgment(lease):
    judgment = submit_judgment(lease, verdict="first").judgment
    fresh = undo(judgment)
    again = submit_judgment(lease, verdict="first")

    assert (again.judgment, again.is_replay) == (judgment, True)
    assert Judgment.objects.filter(undone_at=None).count() == 0
    fresh.refresh_from_db()
    assert fresh.outcome == Lease.Outcome.ACTIVE


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
    PreferencePair.objects.update(state="accepted")
    freeze(project, PreferencePair.objects.get(kind="judged"))

    with pytest.raises(Frozen):
        undo(judgment)
    judgment.refresh_from_db()
    assert judgment.undone_at is None
    assert not PreferencePair.objects.filter(superseded_at__isnull=False).exists()
    assert not Lease.objects.filter(outcome="").exists()

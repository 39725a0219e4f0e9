"""Judgments after the lease's time, of one skipped, of what was withdrawn."""

import pytest

from annotation.ending import skip
from annotation.errors import TooLate
from annotation.judging import submit_judgment
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Completion,
    Judgment,
    Lease,
    PreferencePair,
    Slot,
)
from annotation.stock import withdraw_stock
from tests.factories import expire, make_comparison, make_policy

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


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

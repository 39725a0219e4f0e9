"""One person, two leases on the same comparison: the first ran out, the second is held."""

import pytest

from annotation.ending import skip
from annotation.judging import judge_and_take, undo
from annotation.leasing import take_lease
from annotation.models import Lease, Slot
from tests.annotation.test_leasing import expire
from tests.factories import make_comparison

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def slots():
    return list(
        Slot.objects.order_by("comparison_id", "number").values_list(
            "state", "lease__annotator__username"
        )
    )


@pytest.fixture
def late(project, annotator, other_annotator):
    """Alice's lease on slot 1 ran out and Bob took that; he skips, while she holds slot 2."""
    make_comparison(project=project, quota=2)
    late = take_lease(project, annotator)
    expire(late)
    bobs = take_lease(project, other_annotator)
    later = take_lease(project, annotator)
    assert (bobs.slot.number, later.slot.number) == (1, 2)
    skip(bobs)
    assert slots() == [("open", None), ("leased", "alice")]
    return Lease.objects.get(pk=late.pk)


def test_a_late_judgment_takes_the_slot_of_their_later_lease_before_a_free_one(
    project, annotator, late
):
    submitted, following = judge_and_take(late, annotator, verdict="first")

    # Else the later lease would stay on the desk, to be refused at every pick.
    assert submitted.judgment.slot.number == 2
    assert slots() == [("open", None), ("judged", "alice")]
    assert not Lease.objects.filter(outcome__in=Lease.HELD).exists()
    assert following is None

    assert undo(submitted.judgment).slot.number == 2

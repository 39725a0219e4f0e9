"""Threads that reserve ahead at once: no quota exceeded, nothing shown and withdrawn."""

from collections import Counter

import pytest

from annotation.judging import judge_and_take, submit_judgment
from annotation.leasing import take_lease
from annotation.models import Comparison, Judgment, Lease, Slot
from annotation.reserving import SPARE, reserve
from annotation.showing import lease_for
from annotation.stock import withdraw_stock
from tests.factories import make_comparison, make_policy, make_project, make_user
from tests.threads import together

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


def test_one_annotator_in_many_tabs_reserves_one():
    project = make_project(settings={"stock": 0})
    user = make_user(project=project)
    for _ in range(8 + SPARE):
        make_comparison(project=project)
    take_lease(project, user)
    leases = together(*[lambda: reserve(project, user)] * 6)

    assert {lease.pk for lease in leases} == {Lease.objects.get(outcome="ahead").pk}
    assert Slot.objects.filter(state="leased").count() == 2


def test_people_who_reserve_and_judge_at_once_never_exceed_a_quota(monkeypatch):
    """Five people on the same few comparisons, some of whose reservations run out and
    are taken by others at the moment they come to the desk."""
    monkeypatch.setattr("annotation.reserving._enough", lambda *args: 1)
    project = make_project(settings={"stock": 0})
    for number in range(14):
        make_comparison(project=project, quota=1 + number % 3)
    users = [make_user(project=project) for _ in range(5)]

    def work(user):
        lease = take_lease(project, user)
        for turn in range(60):
            if lease is None:
                return
            ahead = reserve(project, user)
            if ahead is not None and turn % 3 == 0:
                Slot.objects.filter(lease=ahead, state="leased").update(
                    expires_at="2020-01-01T00:00Z"
                )
            _submitted, lease = judge_and_take(
                lease_for(user, lease.pk), user, verdict="first", has_ahead=True
            )

    results = together(*[lambda user=user: work(user) for user in users])
    assert results == [None] * 5
    for user in users:
        while (lease := take_lease(project, user)) is not None:
            submit_judgment(lease, verdict="first")
    standing = Counter(
        Judgment.objects.filter(undone_at=None).values_list("comparison", flat=True)
    )
    for comparison in Comparison.objects.all():
        assert standing[comparison.pk] == comparison.slots.count()
    assert set(Slot.objects.values_list("state", flat=True)) == {"judged"}
    assert not Lease.objects.filter(outcome__in=Lease.HELD).exists()


def test_a_promotion_while_reserved_pairs_come_to_the_desk_shows_none_that_it_withdrew():
    """Each is withdrawn unseen, or on the desk and to be judged: never both."""
    project = make_project(settings={"stock": 0})
    for _ in range(6):
        users = [make_user(project=project) for _ in range(4)]
        for _ in range(len(users) + 2 * 4 + SPARE):
            make_comparison(project=project)
        for user in users:
            take_lease(project, user)
        ahead = [reserve(project, user).pk for user in users]
        later = make_policy(project=project)
        results = together(
            *[
                lambda user=user: judge_and_take(
                    Lease.objects.get(annotator=user, outcome=""),
                    user,
                    verdict="first",
                    has_ahead=True,
                )
                for user in users
            ],
            lambda later=later: withdraw_stock(project, keep=later),
        )
        assert not [one for one in results if isinstance(one, Exception)], results
        for key in ahead:
            lease = Lease.objects.select_related("comparison").get(pk=key)
            if lease.outcome == "":
                assert Slot.objects.get(lease=lease).state == "leased"
                submit_judgment(lease, verdict="first")
            else:
                assert lease.outcome == "expired"
                assert not Slot.objects.filter(lease=lease).exists()
        for lease in Lease.objects.filter(outcome=""):
            submit_judgment(lease, verdict="tie")
        withdraw_stock(project, keep=later)
        assert not Lease.objects.filter(outcome="ahead").exists()
        assert not Slot.objects.filter(state="leased").exists()

"""Who is given which comparison, for how long, and what the lease shows."""

from datetime import timedelta

import pytest
from django.http import Http404
from django.utils import timezone

from annotation import leasing, waiting
from annotation.ending import skip
from annotation.errors import InvalidJudgment, Refused
from annotation.leasing import shows_a_first, take_lease
from annotation.models import Comparison, Lease, Slot
from annotation.showing import lease_for
from tests.factories import (
    expire,
    make_comparison,
    make_judgment,
    make_lease,
    make_project,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_the_oldest_waiting_comparison_is_given_first(project, annotator):
    oldest, newer = make_comparison(project=project), make_comparison(project=project)

    assert take_lease(project, annotator).comparison == oldest
    assert take_lease(project, make_user(project=project)).comparison == newer


def test_nothing_waits_so_there_is_no_lease(project, annotator):
    make_comparison()  # of another project

    assert take_lease(project, annotator) is None


def test_asking_again_gives_the_lease_already_held(project, annotator):
    make_comparison(project=project)
    make_comparison(project=project)
    first = take_lease(project, annotator)
    again = take_lease(project, annotator)

    assert again == first
    assert (first.is_new, again.is_new) == (True, False)
    assert again.expires_at == first.expires_at
    assert Lease.objects.count() == 1


def test_asking_again_late_prolongs_the_lease(project, annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    expire(lease)

    again = take_lease(project, annotator)
    assert again == lease
    assert again.expires_at > timezone.now() + timedelta(minutes=14)
    lease.slot.refresh_from_db()
    assert lease.slot.expires_at == again.expires_at


def test_a_slot_is_given_to_one_annotator_only(project, annotator, other_annotator):
    make_comparison(project=project)
    assert take_lease(project, annotator)
    assert take_lease(project, other_annotator) is None


def test_a_quota_of_two_is_given_to_two_annotators_and_no_third(project):
    make_comparison(project=project, quota=2)
    leases = [take_lease(project, make_user(project=project)) for _ in range(3)]

    assert leases[0].comparison == leases[1].comparison
    assert leases[2] is None


def test_an_expired_slot_goes_to_the_next_and_ends_the_old_lease(
    project, annotator, other_annotator
):
    make_comparison(project=project)
    old = take_lease(project, annotator)
    expire(old)

    new = take_lease(project, other_annotator)
    old.refresh_from_db()
    assert new.comparison_id == old.comparison_id
    assert (old.outcome, bool(old.ended_at)) == (Lease.Outcome.EXPIRED, True)
    assert Slot.objects.get().lease_id == new.pk


def test_a_comparison_once_judged_is_not_given_again(project, annotator):
    comparison = make_comparison(project=project, quota=2)
    make_judgment(lease=make_lease(comparison=comparison, annotator=annotator))

    assert take_lease(project, annotator) is None


def test_a_skipped_comparison_goes_to_others_but_never_back(
    project, annotator, other_annotator
):
    comparison = make_comparison(project=project)
    skip(take_lease(project, annotator), "don't know")

    assert take_lease(project, annotator) is None
    assert take_lease(project, other_annotator).comparison == comparison
    skipped = Lease.objects.get(annotator=annotator)
    assert (skipped.outcome, skipped.skip_reason) == ("skipped", "don't know")


def test_skipping_twice_changes_nothing(project, annotator, other_annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    skip(lease, "once")
    held = take_lease(project, other_annotator)
    skip(lease_for(annotator, lease.pk), "twice")

    held.refresh_from_db()
    assert held.outcome == Lease.Outcome.ACTIVE
    assert Slot.objects.get().lease_id == held.pk


def test_a_flag_that_comes_after_the_skip_is_kept_and_the_first_flag_stays(
    project, annotator
):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    skip(lease, "too long")
    skip(lease, flag="unsafe")
    lease.refresh_from_db()
    assert (lease.flag, lease.skip_reason) == ("unsafe", "too long")

    skip(lease, "half a sentence", flag="broken")
    skip(lease, "nothing")
    lease.refresh_from_db()
    assert (lease.flag, lease.skip_reason) == ("unsafe", "too long")


def test_a_judged_lease_cannot_be_skipped(annotator, project):
    lease = make_lease(comparison=make_comparison(project=project), annotator=annotator)
    make_judgment(lease=lease)
    with pytest.raises(Refused):
        skip(lease)
    assert Slot.objects.get().state == "judged"


def test_a_skip_reason_that_cannot_be_stored_is_refused_by_name(project, annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    for reason in ("\0", "\ud800", "x" * 10_001):
        with pytest.raises(InvalidJudgment) as refused:
            skip(lease, reason)
        assert refused.value.field == "reason"
    assert Slot.objects.get().state == "leased"


def test_a_flag_ends_the_lease_as_a_skip_does_and_says_what_is_wrong(
    project, annotator, other_annotator
):
    comparison = make_comparison(project=project)
    skip(take_lease(project, annotator), "it insults people", "unsafe")
    lease = Lease.objects.get()
    assert (lease.outcome, lease.flag) == ("skipped", "unsafe")
    assert lease.skip_reason == "it insults people"
    assert take_lease(project, annotator) is None
    assert take_lease(project, other_annotator).comparison == comparison


def test_an_unknown_flag_and_an_empty_other_are_refused_by_name(project, annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    for flag, field in (("boring", "flag"), ("other", "reason")):
        with pytest.raises(InvalidJudgment) as refused:
            skip(lease, " ", flag)
        assert refused.value.field == field
    assert Slot.objects.get().state == "leased"


def test_a_withdrawn_comparison_is_not_offered_and_a_held_one_ends_withdrawn(
    project, annotator, other_annotator
):
    comparison = make_comparison(project=project, quota=2)
    lease = take_lease(project, annotator)
    comparison.state = Comparison.State.WITHDRAWN
    comparison.save()

    assert take_lease(project, other_annotator) is None
    skip(lease)
    assert set(Slot.objects.values_list("state", flat=True)) == {"withdrawn", "open"}


def test_the_shown_order_is_the_same_at_every_visit_and_differs_between_people(project):
    comparison = make_comparison(project=project, quota=40)
    users = [make_user(project=project) for _ in range(40)]
    a_first = 0
    for user in users:
        lease = take_lease(project, user)
        a_first += lease.first == comparison.a
        assert {lease.first, lease.second} == {comparison.a, comparison.b}
        assert (lease.first == comparison.a) == shows_a_first(user.pk, comparison.pk)
    # 40 fair coins: fewer than 6 or more than 34 heads happen once in a million.
    assert 6 <= a_first <= 34


def test_no_id_of_a_lease_tells_that_a_pair_comes_again(project, annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    expire(lease)
    take_lease(project, make_user(project=project))
    other = Lease.objects.exclude(pk=lease.pk).get()
    ids = [
        value
        for row in (lease, other)
        for value in (
            row.key,
            row.comparison_alias,
            row.first_alias,
            row.second_alias,
        )
    ]
    assert len(set(ids)) == 8


def test_a_lease_is_its_annotators_alone(project, annotator, other_annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)

    assert lease_for(annotator, lease.key) == lease
    for user, key in [
        (other_annotator, lease.key),
        (annotator, "no uuid"),
        (annotator, "00000000-0000-0000-0000-000000000000"),
    ]:
        with pytest.raises(Http404):
            lease_for(user, key)
    annotator.memberships.all().delete()
    with pytest.raises(Http404):
        lease_for(annotator, lease.key)


def test_a_lease_taken_in_another_tab_meanwhile_is_given_instead(
    project, annotator, monkeypatch
):
    make_comparison(project=project)
    make_comparison(project=project)
    claim = leasing.claim

    def claimed_twice(*args):
        monkeypatch.setattr(leasing, "claim", claim)
        take_lease(project, annotator)  # the other tab
        return claim(*args)

    monkeypatch.setattr(leasing, "claim", claimed_twice)
    lease = take_lease(project, annotator)

    assert Lease.objects.get() == lease
    assert Slot.objects.filter(state="leased").count() == 1


def test_many_judged_and_busy_comparisons_do_not_hide_the_free_one(project, annotator):
    for _ in range(waiting.WINDOW + 3):
        comparison = make_comparison(project=project, quota=2)
        make_judgment(lease=make_lease(comparison=comparison, annotator=annotator))
    free = make_comparison(project=project)

    assert take_lease(project, annotator).comparison == free


def test_taking_a_lease_costs_the_same_queries_however_much_waits(
    project, annotator, other_annotator, django_assert_num_queries
):
    make_comparison(project=project)
    with django_assert_num_queries(8):
        take_lease(project, annotator)
    for _ in range(30):
        make_comparison(project=project)
    with django_assert_num_queries(8):
        take_lease(project, other_annotator)


def test_a_lease_asks_for_the_stock_to_be_filled_and_survives_a_dead_broker(
    project, annotator, nudges, django_capture_on_commit_callbacks, monkeypatch
):
    make_comparison(project=project)
    with django_capture_on_commit_callbacks(execute=True):
        take_lease(project, annotator)
    assert nudges == [project.pk]

    def refuse(*args, **options):
        raise ConnectionError("the broker is gone")

    monkeypatch.setattr("annotation.tasks.fill_stock.apply_async", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        assert take_lease(project, make_user(project=project)) is None


def test_projects_do_not_share_leases(annotator, project):
    other = make_project(members={annotator: "annotator"})
    make_comparison(project=project)
    make_comparison(project=other)

    assert take_lease(project, annotator).project == project
    assert take_lease(other, annotator).project == other

"""Flagged pairs: who sees them, how they are found, and taking one out of the stock."""

import pytest
from django.http import Http404
from django.urls import reverse
from django.utils import timezone

from annotation import ending, flags
from annotation.ending import end_lapsed, skip
from annotation.errors import Refused, TooLate
from annotation.judging import submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import Comparison, Lease, Role, Slot
from annotation.tasks import fill_stocks
from tests.factories import (
    make_comparison,
    make_flag,
    make_judgment,
    make_lease,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def url(client, project):
    client.force_login(make_user("rita", project=project, role=Role.REVIEWER))
    return reverse("flagged", args=[project.slug])


def test_reviewers_find_flags_newest_first_and_by_kind(client, project, annotator, url):
    make_flag(project, annotator, "unsafe", "it insults people")
    make_flag(project, annotator, "language")
    make_lease(project=project, annotator=annotator, outcome="skipped")
    response = client.get(url)
    assert [lease.flag for lease in response.context["leases"]] == [
        "language",
        "unsafe",
    ]
    assert "it insults people" in response.content.decode()
    only = client.get(url, {"flag": "unsafe"}).context["leases"]
    assert [lease.flag for lease in only] == ["unsafe"]


def test_flags_of_other_projects_are_not_shown(client, project, annotator, url):
    make_flag(None, annotator)
    assert not client.get(url).context["leases"]


def test_queries_of_the_page_do_not_grow_with_the_flags(
    client, project, annotator, url, django_assert_num_queries
):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    make_flag(project, annotator)
    with CaptureQueriesContext(connection) as one:
        client.get(url)
    for _number in range(5):
        make_flag(project, annotator)
    with django_assert_num_queries(len(one)):
        client.get(url)


def test_a_withdrawn_pair_is_offered_to_nobody(
    client, project, annotator, other_annotator, url
):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    skip(lease, flag="broken")
    assert client.post(url, {"lease": str(lease.key)}).status_code == 302
    assert take_lease(project, other_annotator) is None
    assert Comparison.objects.get().state == "withdrawn"
    assert set(Slot.objects.values_list("state", flat=True)) == {"withdrawn"}


def test_who_holds_the_pair_may_finish_it(project, annotator, other_annotator):
    make_comparison(project=project, quota=2)
    lease = take_lease(project, annotator)
    held = take_lease(project, other_annotator)
    skip(lease, flag="broken")
    flags.withdraw(project, str(lease.key))
    held.refresh_from_db()
    assert held.outcome == "" and held.slot.state == "leased"


def test_what_was_judged_before_decides_a_withdrawn_pair(
    project, annotator, other_annotator
):
    comparison = make_comparison(project=project, quota=2)
    make_judgment(comparison=comparison, annotator=other_annotator)
    lease = take_lease(project, annotator)
    skip(lease, flag="language")
    flags.withdraw(project, str(lease.key))
    comparison.refresh_from_db()
    assert comparison.state == "decided"


def test_what_was_withdrawn_stays_so_when_its_judgment_is_undone(
    project, annotator, other_annotator
):
    """All slots are held when it is withdrawn: none is left to tell so afterwards."""
    comparison = make_comparison(project=project, quota=2)
    judgment = submit_judgment(take_lease(project, annotator), verdict="first").judgment
    lease = take_lease(project, other_annotator)
    skip(lease, flag="unsafe")
    flags.withdraw(project, str(lease.key))
    comparison.refresh_from_db()
    assert comparison.state == "decided"
    again = undo(judgment)
    comparison.refresh_from_db()
    assert comparison.state == "withdrawn" and again.slot.state == "leased"
    skip(again)
    assert take_lease(project, make_user("carol", project=project)) is None


def test_whose_lease_an_undo_pushes_aside_keeps_no_judgment_of_others_waiting(
    project, annotator, other_annotator
):
    """Bob holds the withdrawn pair, and undoes an earlier judgment: nobody is left to
    judge it, so Alice's judgment decides."""
    make_comparison(project=project)
    earlier = submit_judgment(take_lease(project, other_annotator), verdict="first")
    comparison = make_comparison(project=project, quota=3)
    submit_judgment(take_lease(project, annotator), verdict="first")
    assert take_lease(project, other_annotator).comparison == comparison
    lease = take_lease(project, make_user("carol", project=project))
    skip(lease, flag="unsafe")
    flags.withdraw(project, str(lease.key))
    assert not comparison.decisions.exists()
    undo(earlier.judgment)
    assert comparison.decisions.get().winner_id


@pytest.fixture
def held(project, annotator, other_annotator):
    """A lease of Bob's on a withdrawn pair that Alice has judged; nothing else waits."""
    comparison = make_comparison(project=project, quota=3)
    flagged = make_lease(comparison=comparison, annotator=make_user(project=project))
    first = make_lease(comparison=comparison, annotator=annotator)
    submit_judgment(first, verdict="first")
    lease = make_lease(comparison=comparison, annotator=other_annotator)
    skip(flagged, flag="broken")
    flags.withdraw(project, flagged.pk)
    return lease


def lapse(lease):
    Slot.objects.filter(lease=lease).update(expires_at=timezone.now())
    Lease.objects.filter(pk=lease.pk).update(expires_at=timezone.now())


def states(comparison):
    return sorted(comparison.slots.values_list("state", flat=True))


def test_a_withdrawn_pair_is_decided_once_the_last_lease_on_it_runs_out(held):
    comparison = held.comparison
    assert end_lapsed() == 0  # Bob still has time.
    assert not comparison.decisions.exists()
    lapse(held)
    fill_stocks()
    decision = comparison.decisions.get()
    judgment = comparison.judgments.get()
    assert (decision.outcome, decision.winner) == ("winner", judgment.winner)
    assert states(comparison) == ["judged", "withdrawn", "withdrawn"]
    held.refresh_from_db()
    assert held.outcome == "expired" and held.ended_at
    assert end_lapsed() == 0
    with pytest.raises(TooLate):
        submit_judgment(held, verdict="second")
    assert comparison.decisions.count() == 1


def test_an_undo_on_a_withdrawn_pair_waits_for_its_lease_and_no_longer(
    project, held, annotator, other_annotator
):
    """Bob judges as well, which decides it, then takes his back and goes home."""
    comparison = held.comparison
    fresh = undo(submit_judgment(held, verdict="second").judgment)
    comparison.refresh_from_db()
    assert comparison.state == Comparison.State.WITHDRAWN
    assert not comparison.decisions.filter(superseded_at=None).exists()
    lapse(fresh)
    assert take_lease(project, make_user(project=project)) is None
    assert end_lapsed() == 1
    standing = comparison.decisions.get(superseded_at=None)
    assert standing.winner == annotator.judgments.get().winner


def test_who_undoes_elsewhere_lets_a_withdrawn_pair_be_decided(
    project, held, other_annotator
):
    Lease.objects.filter(pk=held.pk).update(outcome="expired")
    earlier = make_judgment(project=project, annotator=other_annotator)
    Lease.objects.filter(pk=held.pk).update(outcome="")
    undo(earlier)
    assert held.comparison.decisions.get().outcome == "winner"


def test_one_reserved_while_the_pair_was_withdrawn_is_ended_too(held):
    """On PostgreSQL the withdrawal doesn't see a lease that is not committed yet."""
    Lease.objects.filter(pk=held.pk).update(outcome="ahead")
    lapse(held)
    assert end_lapsed() == 1
    assert held.comparison.decisions.get().outcome == "winner"
    assert states(held.comparison) == ["judged", "withdrawn", "withdrawn"]


def test_what_is_offered_keeps_a_lease_that_ran_out(annotator):
    lease = make_lease(comparison=make_comparison(), annotator=annotator)
    lapse(lease)
    assert end_lapsed() == 0
    assert states(lease.comparison) == ["leased"]


def test_only_so_many_are_ended_at_once(monkeypatch):
    monkeypatch.setattr(ending, "ENDED_AT_ONCE", 2)
    for _ in range(3):
        lease = make_lease(comparison=make_comparison(state="withdrawn"))
        lapse(lease)
    assert [end_lapsed() for _ in range(3)] == [2, 1, 0]


def test_withdrawing_twice_or_what_nobody_flagged_is_refused(project, annotator):
    make_comparison(project=project)
    lease = take_lease(project, annotator)
    with pytest.raises(Http404):
        flags.withdraw(project, str(lease.key))
    skip(lease, flag="broken")
    flags.withdraw(project, str(lease.key))
    with pytest.raises(Refused):
        flags.withdraw(project, str(lease.key))


@pytest.mark.parametrize("key", ["", "no key", "\0"])
def test_nonsense_for_a_key_is_no_server_error(client, url, key):
    assert client.post(url, {"lease": key}).status_code in (302, 404)

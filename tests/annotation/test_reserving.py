"""The lease reserved ahead: who is given one, what it holds, how it comes to the desk."""

import re
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from annotation import waiting
from annotation.ending import skip
from annotation.judging import judge_and_take, submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import Comparison, Judgment, Lease, Probe, Slot
from annotation.overview import waiting_for
from annotation.reserving import SPARE, reserve
from annotation.showing import lease_for
from annotation.stock import withdraw_open, withdraw_stock
from tests.annotation.pages import HTMX, html, without_chance
from tests.factories import (
    expire,
    make_comparison,
    make_completion,
    make_gold,
    make_judgment,
    make_lease,
    make_policy,
    make_prompt,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def waits(project):
    """One comparison for the desk, and as many more as one may be reserved of."""
    return [make_comparison(project=project) for _ in range(1 + SPARE)]


@pytest.fixture
def desk(project, annotator, waits):
    return take_lease(project, annotator)


@pytest.fixture
def ahead(project, annotator, desk):
    lease = reserve(project, annotator)
    assert lease.outcome == Lease.Outcome.AHEAD
    return lease


def again(row):
    return type(row).objects.get(pk=row.pk)


# --- Who is given one -----------------------------------------------------------------
def test_the_comparison_after_the_one_on_the_desk_is_reserved(desk, ahead, waits):
    assert (desk.comparison, ahead.comparison) == (waits[0], waits[1])
    assert Slot.objects.get(lease=ahead).state == Slot.State.LEASED


def test_who_has_no_pair_on_the_desk_gets_none_ahead(project, annotator, waits):
    assert reserve(project, annotator) is None
    assert not Lease.objects.exists()


def test_while_few_wait_none_is_reserved(project, annotator, desk, waits):
    make_lease(comparison=waits[-1], annotator=make_user())
    assert reserve(project, annotator) is None
    make_comparison(project=project)
    make_comparison(project=project)
    assert reserve(project, annotator) is not None


def test_two_must_wait_for_everybody_at_work_but_never_more_than_a_window(
    project, annotator, desk
):
    """Ten at work with a pair each and SPARE waiting: 16, a window, is enough for them,
    where twice ten would be twenty."""
    for _ in range(9):
        make_lease(project=project, annotator=make_user())
    at_once = 2 * 10
    assert waiting.WINDOW == 16 < at_once
    for _ in range(waiting.WINDOW - SPARE):
        assert reserve(project, annotator) is None
        make_comparison(project=project)
    assert reserve(project, annotator) is not None


def test_who_went_home_is_not_at_work(project, annotator, desk):
    for _ in range(9):
        expire(make_lease(project=project, annotator=make_user()))
    # Their nine wait again, too.
    assert reserve(project, annotator) is not None


def test_asking_again_gives_the_same_with_its_time_anew(project, annotator, ahead):
    expire(ahead)
    same = reserve(project, annotator)
    assert same == ahead
    for row in (again(ahead), Slot.objects.get(lease=ahead)):
        assert row.expires_at > timezone.now() + timedelta(minutes=14)


def test_of_a_comparison_for_several_the_one_on_the_desk_is_not_reserved_too(
    project, annotator
):
    shared = make_comparison(project=project, quota=3)
    others = [make_comparison(project=project) for _ in range(SPARE)]
    assert take_lease(project, annotator).comparison == shared
    assert reserve(project, annotator).comparison == others[0]


def test_what_was_judged_or_skipped_is_not_reserved(project, annotator):
    judged, skipped = (make_comparison(project=project, quota=2) for _ in range(2))
    make_judgment(lease=make_lease(comparison=judged, annotator=annotator))
    skip(take_lease(project, annotator))
    assert Lease.objects.get(outcome="skipped").comparison == skipped
    fresh = [make_comparison(project=project) for _ in range(1 + SPARE)]
    assert take_lease(project, annotator).comparison == fresh[0]
    assert reserve(project, annotator).comparison == fresh[1]


def test_there_is_one_ahead_for_each_annotator_and_project(ahead, waits, annotator):
    with pytest.raises(IntegrityError), transaction.atomic():
        make_lease(comparison=waits[3], annotator=annotator, outcome="ahead")


# --- What it holds --------------------------------------------------------------------
def test_nobody_else_is_given_it_until_its_time_is_over(
    project, ahead, other_annotator
):
    others = take_lease(project, other_annotator)
    assert others.comparison_id != ahead.comparison_id
    skip(others)
    expire(ahead)
    later = take_lease(project, other_annotator)
    assert later.comparison_id == ahead.comparison_id
    ended = again(ahead)
    assert (ended.outcome, bool(ended.ended_at)) == (Lease.Outcome.EXPIRED, True)


def test_the_reserved_one_still_counts_as_waiting_for_who_has_it(
    project, annotator, desk
):
    before = waiting_for(project, annotator).number
    reserve(project, annotator)
    assert waiting_for(project, annotator).number == before == 1 + SPARE


def test_promotion_withdraws_what_is_only_reserved_and_leaves_what_is_on_a_desk(
    project, desk, ahead
):
    assert withdraw_stock(project, keep=make_policy(project=project)) == SPARE
    assert again(ahead).outcome == Lease.Outcome.EXPIRED
    assert again(ahead.comparison).state == Comparison.State.WITHDRAWN
    assert Slot.objects.get(comparison=ahead.comparison).state == "withdrawn"
    assert again(desk.comparison).state == Comparison.State.OPEN
    _submitted, following = judge_and_take(
        lease_for(desk.annotator, desk.pk),
        desk.annotator,
        verdict="first",
        has_ahead=True,
    )
    assert following is None


def test_a_reviewer_who_withdraws_the_pair_ends_the_reservation(
    project, annotator, ahead
):
    with transaction.atomic():
        withdraw_open(again(ahead.comparison))
    assert again(ahead).outcome == Lease.Outcome.EXPIRED
    make_comparison(project=project)
    assert reserve(project, annotator).pk != ahead.pk


# --- How it comes to the desk ---------------------------------------------------------
def judge(lease, verdict="first", **options):
    return judge_and_take(
        lease_for(lease.annotator, lease.pk),
        lease.annotator,
        verdict=verdict,
        **options,
    )


def test_with_the_judgment_it_comes_to_the_desk(desk, ahead):
    _submitted, following = judge(desk, has_ahead=True)
    assert following == ahead
    assert (following.outcome, following.is_new) == (Lease.Outcome.ACTIVE, True)
    assert Lease.objects.filter(outcome__in=Lease.HELD).count() == 1


def test_its_time_and_the_seconds_count_from_when_it_came_to_the_desk(desk, ahead):
    long_ago = timezone.now() - timedelta(minutes=10)
    Lease.objects.filter(pk=ahead.pk).update(created_at=long_ago, expires_at=long_ago)
    Slot.objects.filter(lease=ahead).update(expires_at=long_ago)
    _submitted, following = judge(desk, has_ahead=True)
    slot = Slot.objects.get(lease=ahead)
    assert slot.expires_at == following.expires_at
    assert following.expires_at > timezone.now() + timedelta(minutes=14)
    submitted, _following = judge(following)
    assert submitted.judgment.seconds < 60


@pytest.mark.parametrize(
    "act", [skip, lambda lease: submit_judgment(lease, verdict="tie")]
)
def test_asking_for_the_next_gives_it_as_well(project, annotator, desk, ahead, act):
    act(lease_for(annotator, desk.pk))
    lease = take_lease(project, annotator)
    assert (lease, lease.is_new) == (ahead, True)
    assert take_lease(project, annotator).is_new is False


def test_who_does_not_ask_for_it_gets_another_and_keeps_it(desk, ahead, waits):
    """As the API does, which never reserves: the order may differ, nothing is lost."""
    _submitted, following = judge(desk)
    assert following.comparison == waits[2]
    assert again(ahead).outcome == Lease.Outcome.AHEAD
    _submitted, following = judge(following, has_ahead=True)
    assert following == ahead


def test_it_comes_where_nothing_else_waits_though_nobody_said_so(
    project, desk, ahead, waits
):
    Slot.objects.filter(state="open").delete()
    _submitted, following = judge(desk)
    assert following == ahead


def test_a_lost_reservation_gives_the_next_that_waits(
    project, desk, ahead, other_annotator, waits
):
    expire(ahead)
    assert take_lease(project, other_annotator).comparison == ahead.comparison
    _submitted, following = judge(desk, has_ahead=True)
    assert following.comparison == waits[2]


def test_what_was_withdrawn_behind_its_back_is_put_back_unseen(
    desk, ahead, annotator, project, waits
):
    Comparison.objects.filter(pk=ahead.comparison_id).update(state="withdrawn")
    _submitted, following = judge(desk, has_ahead=True)
    assert following.comparison == waits[2]
    assert again(ahead).outcome == Lease.Outcome.EXPIRED
    assert Slot.objects.get(comparison=ahead.comparison_id).state == "withdrawn"


@pytest.mark.parametrize("verdict", ["first", None])
def test_what_they_have_met_by_another_lease_does_not_come_again(
    project, annotator, verdict
):
    """Judged or skipped through the API, on the comparison's second slot."""
    desk_pair = make_comparison(project=project)
    shared = make_comparison(project=project, quota=2)
    for _ in range(SPARE):
        make_comparison(project=project)
    desk = take_lease(project, annotator)
    assert desk.comparison == desk_pair
    ahead = reserve(project, annotator)
    assert ahead.comparison == shared
    _submitted, other = judge(desk)
    assert other.comparison == shared
    if verdict:
        _submitted, following = judge(other, has_ahead=True)
    else:
        skip(other)
        following = take_lease(project, annotator)
    assert following.comparison not in (shared, desk_pair)
    assert again(ahead).outcome == Lease.Outcome.EXPIRED
    states = sorted(shared.slots.values_list("state", flat=True))
    assert states == (["judged", "open"] if verdict else ["open", "open"])


def test_a_probe_never_pushes_the_reserved_one_aside_but_is_reserved_after_it(
    project, annotator, desk, ahead, waits
):
    """Were the pair that the page holds not the one that comes, that would tell it."""
    make_gold(project=project)
    project.settings = {**project.settings, "gold_rate": 1.0}
    project.save()
    make_comparison(project=project)
    _submitted, following = judge(take_lease(project, annotator), has_ahead=True)
    assert following == ahead
    probe = reserve(project, annotator)
    assert probe.comparison.purpose == Comparison.Purpose.GOLD
    assert Probe.objects.get().after == Judgment.objects.get()
    _submitted, following = judge(following, has_ahead=True)
    assert following == probe
    _submitted, following = judge(following)
    assert following.comparison == waits[2]


def test_a_probe_is_not_reserved_where_another_pair_would_not_be(
    project, annotator, desk, waits
):
    make_gold(project=project)
    project.settings = {**project.settings, "gold_rate": 1.0}
    project.save()
    submit_judgment(lease_for(annotator, desk.pk), verdict="first")
    take_lease(project, annotator)
    assert Probe.objects.count() == 1
    submit_judgment(Lease.objects.get(outcome=""), verdict="first")
    make_gold(project=project)
    Comparison.objects.filter(pk=waits[-1].pk).update(state="withdrawn")
    make_lease(comparison=waits[-2], annotator=annotator)
    assert reserve(project, annotator) is None
    assert Probe.objects.count() == 1


def test_undo_brings_its_pair_back_and_leaves_the_reserved_one(
    project, annotator, desk, ahead
):
    submitted, following = judge(desk, has_ahead=True)
    make_comparison(project=project)
    newer = reserve(project, annotator)
    fresh = undo(submitted.judgment)
    assert fresh.comparison == desk.comparison
    assert again(following).outcome == Lease.Outcome.EXPIRED
    assert again(newer).outcome == Lease.Outcome.AHEAD
    assert judge(fresh, has_ahead=True)[1] == newer


def test_a_judgment_on_one_that_never_came_to_the_desk_counts_and_the_desk_stays(
    desk, ahead
):
    """Nothing that somebody judged is lost, whatever a page made of its order."""
    submitted, following = judge(ahead)
    assert submitted.judgment.comparison == ahead.comparison
    assert following == desk
    assert again(ahead).outcome == Lease.Outcome.JUDGED
    assert Judgment.objects.count() == 1


def test_one_that_never_came_to_the_desk_may_be_skipped(desk, ahead, annotator):
    skip(lease_for(annotator, ahead.pk))
    assert again(ahead).outcome == Lease.Outcome.SKIPPED
    assert Slot.objects.get(comparison=ahead.comparison_id).state == "open"
    assert again(desk).outcome == Lease.Outcome.ACTIVE


def test_the_same_judgment_again_gives_the_lease_that_came_to_the_desk(desk, ahead):
    judge(desk, has_ahead=True)
    submitted, following = judge(desk, has_ahead=True)
    assert submitted.is_replay
    assert (following, following.is_new) == (ahead, False)


def test_who_never_asks_pays_nothing_and_who_does_no_more(project, annotator):
    """Statements of one judging request: the same whether or not one is reserved, fewer
    where it comes to the desk."""
    for _ in range(20):
        make_comparison(project=project)
    lease = take_lease(project, annotator)

    def statements(**options):
        nonlocal lease
        with CaptureQueriesContext(
            connection,
        ) as found:
            _submitted, lease = judge(lease, **options)
        return len(found)

    statements()
    alone = statements()
    reserve(project, annotator)
    assert statements() == alone
    assert statements(has_ahead=True) <= alone


# --- The page -------------------------------------------------------------------------
def ahead_url(project) -> str:
    return reverse("ahead", args=[project.slug])


def test_the_page_gets_the_pair_to_hold_and_nobody_keeps_a_copy(
    signed_in, project, desk, waits
):
    response = signed_in.post(ahead_url(project), headers=HTMX)
    lease = Lease.objects.get(outcome="ahead")
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    assert html(response).lstrip().startswith("<section")
    assert f'data-lease="{lease.key}"' in html(response)
    assert waits[1].a.text in html(response)


def test_where_none_may_be_reserved_the_page_gets_nothing(signed_in, project):
    assert signed_in.post(ahead_url(project), headers=HTMX).status_code == 204


def test_a_pick_says_that_the_page_holds_one_by_a_header(signed_in, desk, ahead):
    url = reverse("judge", args=[desk.key])
    headers = HTMX | {"X-Has-Ahead": "true"}
    response = signed_in.post(url, {"verdict": "first"}, headers=headers)
    assert f'data-lease="{ahead.key}"' in html(response)


def test_a_pair_that_comes_ahead_is_written_as_the_same_pair_on_the_desk(
    signed_in, project, desk, ahead
):
    held = html(signed_in.post(ahead_url(project), headers=HTMX))
    skip(desk)
    shown = html(signed_in.get(reverse("compare", args=[project.slug]), headers=HTMX))
    assert without_chance(held) == without_chance(shown)


@pytest.mark.parametrize(
    "differences",
    [
        {"finish_reason": "length", "seed": 77},
        {"token_ids": list(range(300)), "logprobs": [-3.5] * 300},
        {"source": "imported", "finish_reason": ""},
        {"another_policy": True},
        {"purpose": "head_to_head"},
    ],
    ids=lambda differences: next(iter(differences)),
)
def test_two_reserved_pairs_that_differ_in_what_must_not_be_told_are_written_alike(
    client, project, differences
):
    """Byte by byte, but for the random ids."""
    differences = dict(differences)
    purpose = differences.pop("purpose", "train")
    if differences.pop("another_policy", False):
        differences["policy"] = make_policy(project=project, number=4711)
    pages = []
    prompt = make_prompt(project=project)
    for changed in ({}, differences):
        user = make_user(project=project)
        Comparison.objects.filter(state="open").update(state="withdrawn")
        made = []
        for _ in range(1 + SPARE):
            a, b = (
                make_completion("Yes.", prompt=prompt, html="<p>Yes.</p>", **changed)
                for _side in "ab"
            )
            made.append(make_comparison(a=a, b=b))
        if changed is differences:
            Comparison.objects.filter(pk=made[1].pk).update(purpose=purpose)
        client.force_login(user)
        take_lease(project, user)
        page = html(client.post(ahead_url(project), headers=HTMX))
        assert Lease.objects.get(annotator=user, outcome="ahead").comparison == made[1]
        pages.append(re.sub(r'data-user="\d+"', "", without_chance(page)))
    assert pages[0] == pages[1]

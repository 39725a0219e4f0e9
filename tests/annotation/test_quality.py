"""What the judgments in the database say of the annotators."""

from datetime import UTC, date, datetime

import pytest
from django.urls import reverse
from rest_framework.test import APIClient

from annotation.models import Judgment
from annotation.quality import agreement
from annotation.shares import share
from annotation.sways import SWAYS, bias
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_lease,
    make_prompt,
    make_user,
)

pytestmark = pytest.mark.both_databases


@pytest.fixture
def judge(project):
    """`judge(comparison, who, "a")`: the answer that wins, or "tie", "both_bad"; with
    `swapped` b is shown first."""

    def judge(comparison, who, won, swapped=False, at=None):
        a, b = comparison.a, comparison.b
        first, second = (b, a) if swapped else (a, b)
        lease = make_lease(
            comparison=comparison, annotator=who, first=first, second=second
        )
        winner = {"a": a, "b": b}.get(won)
        verdict = won if winner is None else "first" if winner == first else "second"
        judgment = make_judgment(lease=lease, verdict=verdict)
        if at is not None:
            Judgment.objects.filter(pk=judgment.pk).update(created_at=at)
        return judgment

    return judge


@pytest.fixture
def judged(project, annotator, other_annotator, judge):
    """Alice and Bob on five comparisons: both a, both b, both tie, a and b, a and both
    bad. Whatever side was shown first."""
    for number, (one, other) in enumerate(
        [("a", "a"), ("b", "b"), ("tie", "tie"), ("a", "b"), ("a", "both_bad")]
    ):
        comparison = make_comparison(project=project, quota=3)
        judge(comparison, annotator, one, swapped=number % 2 == 0)
        judge(comparison, other_annotator, other)
    return project


def test_agreement_is_about_answers_not_about_sides(judged):
    """Alike 3 of 5. Of the 10 verdicts a has 4, b 3, tie 2, both bad 1: by chance
    (12 + 6 + 2 + 0) / 90 = 2/9; alpha (0.6 − 2/9) / (7/9) = 0.4857. Fleiss: by chance
    (16 + 9 + 4 + 1) / 100 = 0.3; 0.3 / 0.7 = 0.4286. Cohen: Alice 3, 1, 1, 0, Bob
    1, 2, 1, 1 of 5: by chance (3 + 2 + 1) / 25 = 0.24; 0.36 / 0.76 = 0.4737."""
    found = agreement(judged)
    assert found["alpha"].value == pytest.approx(0.4857, abs=1e-4)
    assert found["fleiss"].value == pytest.approx(0.4286, abs=1e-4)
    (pair,) = found["pairs"]
    assert pair["annotators"] == ("alice", "bob")
    assert pair["kappa"].value == pytest.approx(0.4737, abs=1e-4)
    assert found["alpha"].units == pair["kappa"].units == 5


def test_what_does_not_stand_or_does_not_train_counts_for_nothing(
    judged, annotator, other_annotator, judge
):
    before = agreement(judged)
    undone = make_comparison(project=judged, quota=2)
    judge(undone, annotator, "a")
    Judgment.objects.filter(pk=judge(undone, other_annotator, "b").pk).update(
        undone_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    gold = make_comparison(project=judged, quota=2, purpose="gold")
    judge(gold, annotator, "a")
    judge(gold, other_annotator, "b")
    elsewhere = make_comparison(quota=2)
    judge(elsewhere, annotator, "a")
    judge(elsewhere, other_annotator, "b")
    assert agreement(judged) == before


def test_weeks_begin_on_monday_and_the_oldest_comes_first(
    project, annotator, other_annotator, judge
):
    """20 November 2026 is a Friday; its week began on the 16th."""
    for day in (20, 6):
        at = datetime(2026, 11, day, 12, tzinfo=UTC)
        comparison = make_comparison(project=project, quota=2)
        judge(comparison, annotator, "a", at=at)
        judge(comparison, other_annotator, "b", at=at)
    weeks = agreement(project)["weeks"]
    assert [week["start"] for week in weeks] == [date(2026, 11, 2), date(2026, 11, 16)]
    assert [week["alpha"].units for week in weeks] == [1, 1]


@pytest.mark.parametrize(
    ("zone", "monday"),
    [
        ("UTC", 16),
        ("Asia/Shanghai", 23),  # 4 o'clock on Monday the 23rd
        ("America/St_Johns", 16),  # half past four in the afternoon
        ("Pacific/Kiritimati", 23),
    ],
)
def test_weeks_begin_on_monday_wherever_the_site_is(
    project, annotator, other_annotator, judge, settings, zone, monday
):
    """Sunday 22 November 2026, 20 o'clock in UTC."""
    settings.TIME_ZONE = zone
    at = datetime(2026, 11, 22, 20, tzinfo=UTC)
    comparison = make_comparison(project=project, quota=2)
    judge(comparison, annotator, "a", at=at)
    judge(comparison, other_annotator, "b", at=at)
    (week,) = agreement(project)["weeks"]
    assert week["start"] == date(2026, 11, monday)


def test_of_three_annotators_every_two_are_compared(judged, annotator, judge):
    carol = make_user("carol", project=judged)
    for comparison in judged.comparisons.order_by("pk")[:2]:
        judge(comparison, carol, "a")
    pairs = agreement(judged)["pairs"]
    assert [(pair["annotators"], pair["kappa"].units) for pair in pairs] == [
        (("alice", "bob"), 5),
        (("alice", "carol"), 2),
        (("bob", "carol"), 2),
    ]


def test_one_verdict_met_by_many_is_as_sure_as_one(project, judge):
    """Four people on three comparisons: on two all say a; on one the first says b, the
    others a. The first one's verdicts meet nine others, six of them the same: 6 of 9, as
    sure as 9² / (3 · 3²) = 3 verdicts."""
    people = [make_user(f"p{number}", project=project) for number in range(4)]
    for number in range(3):
        comparison = make_comparison(project=project, quota=4)
        for place, who in enumerate(people):
            judge(comparison, who, "b" if number == place == 0 else "a")
    found = agreement(project)["people"]["p0"]
    assert (found.count, found.of) == (6, 9)
    assert (found.low, found.high) == (share(2, 3).low, share(2, 3).high)


def test_nothing_judged_twice_is_no_agreement(project, annotator):
    make_judgment(project=project, annotator=annotator)
    assert agreement(project) is None


def test_more_judgments_need_no_more_queries(
    judged, annotator, other_annotator, judge, django_assert_num_queries
):
    for _ in range(5):
        comparison = make_comparison(project=judged, quota=3)
        for who in (annotator, other_annotator, make_user()):
            judge(comparison, who, "a")
    with django_assert_num_queries(3):
        agreement(judged)
        bias(judged)


# --- What sways verdicts -------------------------------------------------------------------


def test_bias_counts_the_side_the_length_and_the_markup_of_what_won(
    project, annotator, other_annotator, judge
):
    """Alice: the short plain one shown first, the long one with a list shown second.
    Bob: the long one shown first. A tie and two answers alike in length are no vote on
    length."""
    prompt = make_prompt(project=project)
    short = make_completion("Take six minutes.", prompt=prompt)
    long = make_completion("# Eggs\n- **water**\n- six minutes", prompt=prompt)
    alike = make_completion("Take nine minutes", prompt=prompt)
    assert (short.markup, long.markup) == (0, 4)
    assert (short.characters, alike.characters) == (17, 17)

    def compare(b=long):
        return make_comparison(prompt=prompt, a=short, b=b, quota=2)

    judge(compare(), annotator, "a")
    judge(compare(), annotator, "b")
    judge(compare(), other_annotator, "b", swapped=True)
    judge(compare(alike), other_annotator, "a")
    judge(compare(), other_annotator, "tie")
    found = bias(project)

    def counts(row):
        return [(row[name].count, row[name].of) for name in SWAYS[:3]]

    assert counts(found) == [(3, 4), (2, 3), (2, 3)]
    by_name = {row["username"]: counts(row) for row in found["annotators"]}
    assert by_name == {
        "alice": [(1, 2), (1, 2), (1, 2)],
        "bob": [(2, 2), (1, 1), (1, 1)],
    }


def test_nobody_preferred_anything_is_no_bias(project):
    make_judgment(project=project, verdict="both_bad")
    assert bias(project) is None


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_wilsons(count, of, low, high):
    """The examples of Newcombe, Statistics in Medicine 17 (1998), method 3."""
    found = share(count, of)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_nothing_cannot_be_said():
    assert share(0, 0).percents is None
    assert share(1, 4).percents == (25, 5, 70)


# --- The page ------------------------------------------------------------------------------


def page_of(client, project, who):
    client.force_login(who)
    return client.get(reverse("quality", args=[project.slug])).content.decode()


def test_the_page_tells_the_figures_with_their_intervals(client, judged, manager):
    page = page_of(client, judged, manager)
    assert "0.49" in page and "0.43" in page and "0.47" in page
    # Of five comparisons: nobody can say how sure.
    assert page.count("(too few to say how sure)") == 4
    api = APIClient()
    api.force_authenticate(manager)
    found = api.get(f"/api/v1/projects/{judged.slug}/stats").json()
    alpha = found["agreement"]["krippendorff_alpha"]
    assert (alpha["units"], alpha["low"], alpha["high"]) == (5, None, None)
    assert "alice · bob" in page


def test_a_manager_is_told_how_to_have_comparisons_judged_twice(
    client, project, manager
):
    page = page_of(client, project, manager)
    assert "No comparison has been judged by two people yet" in page
    assert reverse("project_settings", args=[project.slug]) in page


@pytest.mark.parametrize(
    ("people", "pairs", "is_open"), [(5, 10, True), (6, 15, False)]
)
def test_many_pairs_of_annotators_are_folded(
    client, project, manager, people, pairs, is_open
):
    """So that what sways verdicts does not lie beneath hundreds of rows."""
    comparison = make_comparison(project=project, quota=people)
    for _number in range(people):
        make_judgment(comparison=comparison)
    client.force_login(manager)
    page = client.get(reverse("quality", args=[project.slug])).content.decode()
    before, _title, after = page.partition("By pair of annotators")
    assert before.rpartition("<details")[2].startswith(' class="card fold"')
    assert (" open>" in before.rpartition("<details")[2]) == is_open
    assert f'muted">{pairs}</span>' in after.partition("</summary>")[0]

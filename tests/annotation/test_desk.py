"""What the desk tells about the day: rows of days, minutes, what waits, the last ten."""

from datetime import date, timedelta

import pytest
from django.utils import timezone

from annotation import desk
from annotation.counting import Counted
from annotation.models import Judgment
from annotation.overview import waiting_for
from tests.factories import make_comparison, make_judgment

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

# A Wednesday.
TODAY = date(2026, 11, 18)


def days(*back):
    return {TODAY - timedelta(days=number) for number in back}


@pytest.mark.parametrize(
    ("worked", "row"),
    [
        (days(), 0),
        (days(0), 1),
        (days(1), 1),  # today has not begun
        (days(0, 1, 2), 3),
        (days(0, 2), 1),  # Tuesday is missing
        (days(0, 1, 2, 5, 6), 5),  # Monday, then Friday: the weekend was free
        (days(0, 1, 2, 3, 5), 5),  # Sunday worked counts, Saturday free does no harm
    ],
)
def test_days_in_a_row(worked, row):
    assert len(desk.row_of(worked, TODAY)) == row


def test_a_judgment_counts_for_today_until_undone_and_a_long_pause_is_capped(
    project, annotator, other_annotator
):
    make_judgment(project=project, annotator=annotator, seconds=60)
    make_judgment(project=project, annotator=annotator, seconds=9000)
    make_judgment(
        project=project, annotator=annotator, seconds=60, undone_at=timezone.now()
    )
    make_judgment(project=project, annotator=other_annotator, seconds=60)
    old = make_judgment(project=project, annotator=annotator, seconds=60)
    Judgment.objects.filter(pk=old.pk).update(
        created_at=timezone.now() - timedelta(days=1)
    )
    assert desk.worked_today(project, annotator) == (2, 6)
    assert desk.days_in_a_row(project, annotator) == 2


@pytest.mark.parametrize(
    ("worked", "row"), [(1, 1), (59, 59), (60, 60), (62, 62), (70, 70)]
)
def test_a_row_of_many_days_is_counted_to_its_end(project, annotator, worked, row):
    """And the work from before a working week without any is no part of it."""
    for ago in [*range(worked), *range(worked + 7, worked + 70)]:
        made = make_judgment(project=project, annotator=annotator)
        Judgment.objects.filter(pk=made.pk).update(
            created_at=timezone.now() - timedelta(days=ago)
        )
    assert desk.days_in_a_row(project, annotator) == row


def test_what_waits_is_what_this_person_could_judge(
    project, annotator, other_annotator
):
    for _number in range(3):
        make_comparison(project=project)
    shared = make_comparison(project=project, quota=2)
    make_judgment(comparison=shared, annotator=annotator)
    make_comparison()
    assert waiting_for(project, annotator) == Counted(3, most=100)
    assert waiting_for(project, other_annotator) == Counted(4, most=100)


def test_what_waits_is_counted_no_further_than_it_is_told(
    project, annotator, monkeypatch
):
    monkeypatch.setattr("annotation.overview.MOST_WAITING", 2)
    for said in ("1", "2", "2+", "2+"):
        make_comparison(project=project)
        assert str(waiting_for(project, annotator)) == said


def test_the_last_ten_are_the_newest_that_stand_in_one_query(
    project, annotator, django_assert_num_queries
):
    made = [make_judgment(project=project, annotator=annotator) for _ in range(12)]
    Judgment.objects.filter(pk=made[-1].pk).update(undone_at=timezone.now())
    with django_assert_num_queries(1):
        ten = list(desk.last_ten(project, annotator))
        prompts = [str(judgment.comparison.prompt) for judgment in ten]
    assert [judgment.pk for judgment in ten] == [j.pk for j in made[10:0:-1]]
    assert len(set(prompts)) == 10
    assert all(judgment.can_undo for judgment in ten)

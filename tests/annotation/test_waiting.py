"""Which comparison comes next: the oldest, a random one, or the one judged least."""

from collections import Counter

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation import waiting
from annotation.ending import skip
from annotation.judging import judge_and_take, submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import Comparison, Judgment, Slot
from tests.factories import make_comparison, make_lease, make_project, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def fewest():
    return make_project(settings={"next_comparison": "fewest", "stock": 0})


def judge_all(project, user):
    """The comparisons that the user is given, one after another, until none waits."""
    given = []
    lease = take_lease(project, user)
    while lease is not None:
        given.append(lease.comparison_id)
        _submitted, lease = judge_and_take(lease, user, verdict="first")
    return given


def test_the_fewest_judgments_first_and_among_equals_the_oldest(fewest):
    a, b, c = (make_comparison(project=fewest, quota=3) for _ in range(3))
    first, second, third = (make_user(project=fewest) for _ in range(3))
    lease = make_lease(comparison=a, annotator=first)
    submit_judgment(lease, verdict="first")
    submit_judgment(make_lease(comparison=a, annotator=second), verdict="tie")
    submit_judgment(make_lease(comparison=b, annotator=first), verdict="tie")

    # Judged 2, 1 and 0 times: c first, then b; a has the most.
    assert judge_all(fewest, third) == [c.pk, b.pk, a.pk]
    assert judge_all(fewest, second) == [c.pk, b.pk]


def test_an_undone_judgment_counts_no_more(fewest):
    a, b = (make_comparison(project=fewest, quota=3) for _ in range(2))
    user = make_user(project=fewest)
    judgment = submit_judgment(take_lease(fewest, user), verdict="first").judgment
    assert take_lease(fewest, make_user(project=fewest)).comparison == b

    skip(undo(judgment))
    a.refresh_from_db()
    assert a.judged == 0
    assert take_lease(fewest, make_user(project=fewest)).comparison == a


def test_at_random_everything_comes_once_and_not_in_order():
    """Twenty in order would be a chance of one in 20!."""
    project = make_project(settings={"next_comparison": "random", "stock": 0})
    made = [make_comparison(project=project).pk for _ in range(20)]
    given = judge_all(project, make_user(project=project))
    assert sorted(given) == made
    assert given != made


def test_at_random_the_first_one_differs(monkeypatch):
    """From places 0, 0.5 and 0.95 in the shuffled order of 0.2, 0.4, 0.6: the next one,
    and after the last the first again."""
    project = make_project(settings={"next_comparison": "random", "stock": 0})
    for shuffle in (0.6, 0.2, 0.4):
        make_comparison(project=project, shuffle=shuffle, quota=3)
    for place, first in [(0.0, 0.2), (0.5, 0.6), (0.95, 0.2)]:
        monkeypatch.setattr(waiting.random, "random", lambda place=place: place)
        lease = take_lease(project, make_user(project=project))
        assert Comparison.objects.get(pk=lease.comparison_id).shuffle == first


@pytest.mark.parametrize("order", ["oldest", "random", "fewest"])
@pytest.mark.parametrize("purpose", ["gold", "repeat"])
def test_what_is_made_for_one_person_is_offered_to_nobody(order, purpose):
    project = make_project(settings={"next_comparison": order, "stock": 0})
    make_comparison(project=project, purpose=purpose)
    head_to_head = make_comparison(project=project, purpose="head_to_head")
    assert judge_all(project, make_user(project=project)) == [head_to_head.pk]


@pytest.mark.parametrize("order", ["oldest", "random", "fewest"])
def test_many_that_wait_in_vain_do_not_hide_the_free_one(order):
    """More than a window of leased, judged and skipped ones."""
    project = make_project(settings={"next_comparison": order, "stock": 0})
    user = make_user(project=project)
    for _ in range(waiting.WINDOW // 2):
        make_lease(comparison=make_comparison(project=project))
        mine = make_comparison(project=project, quota=2)
        submit_judgment(make_lease(comparison=mine, annotator=user), verdict="tie")
        skipped = make_comparison(project=project)
        skip(make_lease(comparison=skipped, annotator=user))
    free = make_comparison(project=project)
    assert judge_all(project, user) == [free.pk]


@pytest.mark.parametrize("order", ["oldest", "random", "fewest"])
def test_a_slot_taken_after_the_offer_is_not_taken_twice(order, monkeypatch):
    """What is offered to one is taken by another before it can be."""
    project = make_project(settings={"next_comparison": order, "stock": 0})
    made = [make_comparison(project=project).pk for _ in range(waiting.WINDOW + 2)]
    first, second = (make_user(project=project) for _ in range(2))
    offers, theirs = waiting.offers, []

    def slow(*args, **kwargs):
        found = offers(*args, **kwargs)
        monkeypatch.setattr(waiting, "offers", offers)
        for _ in range(waiting.WINDOW):
            theirs.append(take_lease(project, make_user(project=project)))
        return found

    monkeypatch.setattr(waiting, "offers", slow)
    mine = take_lease(project, first)
    other = take_lease(project, second)
    given = [lease.comparison_id for lease in (*theirs, mine, other)]
    assert sorted(given) == made
    assert set(Slot.objects.values_list("state", flat=True)) == {"leased"}


def test_judged_is_what_was_counted_whatever_happened(fewest):
    for quota in (1, 2, 3):
        make_comparison(project=fewest, quota=quota)
    users = [make_user(project=fewest) for _ in range(3)]
    for user in users:
        judge_all(fewest, user)
    for judgment in list(Judgment.objects.order_by("created_at")[:2]):
        undo(judgment)
    standing = Counter(
        Judgment.objects.filter(undone_at=None).values_list("comparison", flat=True)
    )
    for comparison in Comparison.objects.all():
        assert comparison.judged == standing[comparison.pk]


@pytest.mark.parametrize(
    ("order", "index"),
    [
        ("oldest", "comparison_waiting"),
        ("fewest", "comparison_fewest"),
        ("random", "comparison_random"),
    ],
)
def test_the_choice_follows_an_index_of_those_waiting(order, index, annotator):
    """With thousands of decided rows and few open ones, on either database."""
    project = make_project(settings={"next_comparison": order}, slug="large")
    done = make_comparison(project=project)
    some = Comparison.objects.bulk_create(
        Comparison(
            project=project,
            prompt=done.prompt,
            a=done.a,
            b=done.b,
            state="decided" if number % 10 else "open",
        )
        for number in range(5000)
    )
    Slot.objects.bulk_create(
        Slot(comparison=comparison, number=1)
        for comparison in some
        if comparison.state == "open"
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    with CaptureQueriesContext(connection) as asked:
        take_lease(project, annotator)
    offers = next(
        query["sql"]
        for query in asked.captured_queries
        if "head_to_head" in query["sql"]
    )
    # PostgreSQL's is the plan that a connection keeps, made for any values.
    is_postgresql = connection.vendor == "postgresql"
    how = "(GENERIC_PLAN)" if is_postgresql else "QUERY PLAN"
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {how} {offers}")
        plan = "\n".join(str(row) for row in cursor.fetchall())
    assert index in plan, plan
    # Of SQLite: it reads in the order wanted instead of sorting all that wait.
    assert "TEMP B-TREE FOR ORDER BY" not in plan, plan

"""Figures counted at the look while a project is small, else kept with a stamp."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone, translation

from annotation import figures
from annotation.agreement import Agreement
from annotation.models import Judgment, ProjectFigures
from annotation.shares import share
from annotation.tasks import refresh_figures, refresh_wanted_figures
from tests.factories import make_judgment, make_pair, make_project, make_user

pytestmark = pytest.mark.both_databases


@pytest.fixture
def asked(monkeypatch):
    """The projects whose figures a worker was asked to count."""
    sent: list[int] = []
    monkeypatch.setattr("annotation.nudging._quiet_until", 0.0)
    monkeypatch.setattr(
        "annotation.tasks.refresh_figures.apply_async",
        lambda args, **options: sent.append(*args),
    )
    return sent


@pytest.fixture
def big(project, monkeypatch):
    """A project of one judgment that counts as one of very many."""
    make_judgment(project=project)
    monkeypatch.setattr(figures, "LIVE", 0)
    return project


def judgments(project) -> int | None:
    found = figures.of(project, "totals")["totals"]
    return found and found["judgments"]


def test_a_small_projects_figures_are_those_of_now(project, asked):
    assert judgments(project) == 0
    make_judgment(project=project)
    assert judgments(project) == 1
    assert figures.of(project, "totals").as_of is None
    assert not asked and not ProjectFigures.objects.exists()


def test_home_counts_small_projects_and_reads_what_is_kept_of_big_ones(
    big, manager, client, asked, django_assert_max_num_queries
):
    make_pair(project=big, annotator=manager)
    figures.refresh(big)
    make_pair(project=big, annotator=manager)
    small = make_project(slug="zz", members={manager: "manager"})
    make_pair(project=small)
    client.force_login(manager)
    # Nine as ever, and of the big one: its row, mine, what waits, what is in review.
    with django_assert_max_num_queries(13) as counted:
        text = " ".join(client.get(reverse("home")).content.decode().split())
    # Two pairs now, one when a worker counted; the reader's own are always of now.
    assert text.count("Sound pairs: 1, of them new: 1.") == 2
    assert "You judged 2 today, 2 in all." in text
    kept = [q["sql"] for q in counted.captured_queries if f"= {big.pk}" in q["sql"]]
    assert not [sql for sql in kept if "annotation_preferencepair" in sql]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("members", "Judgments: 2"),
        ("prompts", "2 in all, 0 held out to measure"),
        ("gold", '<td class="numeric optional">2</td>'),
        ("export", "<dt>Judgments</dt><dd>2</dd>"),
    ],
)
def test_other_pages_of_a_big_project_read_what_is_kept_as_well(
    project, manager, client, asked, monkeypatch, page, said
):
    def look():
        answer = client.get(reverse(page, args=[project.slug]))
        assert answer.status_code == 200
        return " ".join(answer.content.decode().split())

    for _ in range(2):
        make_judgment(project=project, annotator=manager)
    client.force_login(manager)
    assert said in look()
    monkeypatch.setattr(figures, "LIVE", 0)
    # Never counted: the page comes all the same, and a worker is asked.
    assert ("as of" not in look()) and asked == [project.pk]
    figures.refresh(project)
    make_judgment(project=project, annotator=manager)
    kept = look()
    assert said in kept and "as of" in kept


@pytest.mark.parametrize("make", [make_judgment, make_pair])
def test_many_judgments_or_many_pairs_make_a_project_big(project, monkeypatch, make):
    monkeypatch.setattr(figures, "LIVE", 2)
    make(project=make_project())
    for _ in range(2):
        make(project=project)
    assert figures.is_small(project)
    make(project=project)
    assert not figures.is_small(project)


def test_a_big_projects_figures_are_kept_until_a_worker_counts_again(big, asked):
    found = figures.of(big, "totals")
    assert found.is_pending and found["totals"] is None
    assert asked == [big.pk]
    refresh_figures(big.pk)
    make_judgment(project=big)
    found = figures.of(big, "totals")
    assert not found.is_pending and found["totals"]["judgments"] == 1
    assert timezone.now() - found.as_of < timedelta(minutes=1)
    refresh_figures(big.pk)
    assert judgments(big) == 2


def test_what_people_are_told_is_counted_once_an_hour(big, monkeypatch):
    hour = datetime(2026, 11, 22, 9, tzinfo=UTC)
    monkeypatch.setattr(figures, "last_full_hour", lambda: hour)
    Judgment.objects.update(created_at=hour - timedelta(minutes=1))
    figures.refresh(big)
    make_judgment(project=big, created_at=hour)
    Judgment.objects.update(created_at=hour - timedelta(minutes=1))
    figures.refresh(big)

    def told():
        return sum(row["judgments"] for row in kept()["annotators"])

    def kept():
        return figures.of(big, "told")["told"]

    assert (kept()["at"], told()) == (hour, 1)
    hour += timedelta(hours=1)
    figures.refresh(big)
    assert (kept()["at"], told()) == (hour, 2)


def test_a_worker_is_asked_once_and_only_where_the_figures_are_old(big, asked):
    for _ in range(3):
        figures.of(big, "totals")
    assert asked == [big.pk]
    figures.refresh(big)
    figures.of(big, "totals")
    assert asked == [big.pk]
    old = timezone.now() - timedelta(minutes=3)
    ProjectFigures.objects.update(as_of=old, asked_at=old)
    for _ in range(3):
        figures.of(big, "totals")
    assert asked == [big.pk, big.pk]


def test_what_takes_long_to_count_is_counted_less_often(big, asked):
    """One minute of counting may take a tenth of the time: every ten minutes."""
    figures.refresh(big)
    old = timezone.now() - timedelta(minutes=9)
    ProjectFigures.objects.update(as_of=old, asked_at=old, seconds=60)
    figures.of(big, "totals")
    assert not asked
    ProjectFigures.objects.update(seconds=50)
    figures.of(big, "totals")
    assert asked == [big.pk]


def test_two_workers_do_not_count_the_same_at_once(big):
    figures.ask(big)
    ProjectFigures.objects.update(started_at=timezone.now())
    assert not figures.refresh(big)
    # One that is gone for long is dead.
    ProjectFigures.objects.update(started_at=timezone.now() - timedelta(hours=1))
    assert figures.refresh(big)
    assert ProjectFigures.objects.get().started_at is None


def test_of_several_big_projects_one_is_counted_at_a_time(big):
    """The queue has two workers; the other one goes on checking pairs."""
    other = make_project()
    figures.ask(other)
    ProjectFigures.objects.filter(project=other).update(started_at=timezone.now())
    assert not figures.refresh(big)
    ProjectFigures.objects.filter(project=other).update(started_at=None)
    assert figures.refresh(big)


def test_a_part_that_fails_leaves_the_old_figures_and_room_to_try_again(
    big, monkeypatch
):
    figures.refresh(big)
    before = ProjectFigures.objects.get()

    def broken(_project):
        raise RuntimeError("no memory")

    monkeypatch.setitem(figures._PARTS, "totals", broken)
    with pytest.raises(RuntimeError):
        figures.refresh(big)
    after = ProjectFigures.objects.get()
    assert (after.as_of, after.values) == (before.as_of, before.values)
    assert after.started_at is None


def test_the_beat_makes_up_for_a_lost_message_and_starts_big_projects(big, asked):
    small = make_project()
    refresh_wanted_figures()
    assert [row.project for row in ProjectFigures.objects.all()] == [big]
    first = ProjectFigures.objects.get().as_of
    refresh_wanted_figures()
    assert ProjectFigures.objects.get().as_of == first
    ProjectFigures.objects.update(asked_at=timezone.now() + timedelta(seconds=1))
    refresh_wanted_figures()
    assert ProjectFigures.objects.get().as_of > first
    assert not ProjectFigures.objects.filter(project=small).exists()


def test_kept_figures_come_back_as_they_were():
    value = {
        "share": share(3, 4),
        "agreement": Agreement(0.5, None, None, 3),
        "day": date(2026, 11, 21),
        "at": datetime(2026, 11, 21, 12, 3, tzinfo=UTC),
        "rows": [{"a": None}, [1, 2.5, "text", True]],
    }
    assert figures.unpacked(figures.packed(value)) == value


def test_kept_and_live_figures_are_the_same(project, annotator, monkeypatch):
    make_pair(project=project, annotator=annotator)
    names = list(figures._PARTS)
    live = figures.of(project, *names)
    figures.refresh(project)
    monkeypatch.setattr(figures, "LIVE", 0)
    assert figures.of(project, *names) == live


def test_texts_are_told_in_the_readers_language_not_in_the_workers(big, client):
    make_pair(project=big)
    with translation.override("zh-hans"):
        figures.refresh(big)
    labels = [step["label"] for step in figures.of(big, "funnel")["funnel"]]
    assert "Judgments" in labels


# --- Pages and calls of a big project -------------------------------------------------


def test_a_page_says_when_its_figures_were_counted_or_that_they_are_being(
    big, manager, client, asked
):
    client.force_login(manager)
    for name in ("project", "quality"):
        text = client.get(reverse(name, args=[big.slug])).content.decode()
        assert "a worker counts it now" in text and "as of" not in text
    figures.refresh(big)
    for name in ("project", "quality"):
        text = client.get(reverse(name, args=[big.slug])).content.decode()
        assert "as of" in text and "a worker counts it now" not in text


def test_the_api_says_so_too(big, manager, client, asked):
    client.force_login(manager)
    url = reverse("api_stats", args=[big.slug])
    response = client.get(url)
    assert response.status_code == 503 and response["Retry-After"] == "60"
    assert "being counted" in response.json()["detail"]
    figures.refresh(big)
    response = client.get(url)
    assert response.status_code == 200 and response["Last-Modified"]


def test_a_big_projects_pages_count_nothing(
    big, manager, client, asked, django_assert_max_num_queries
):
    """Session, user, project, role; how big it is (2), what is kept (1), what waits
    for a reviewer (1); the rest is about the reader, the round that runs, the servers,
    and recent checks of annotators: none reads all rows."""
    figures.refresh(big)
    client.force_login(manager)
    for name, most in (("project", 20), ("quality", 10), ("api_stats", 12)):
        url = reverse(name, args=[big.slug])
        with django_assert_max_num_queries(most) as counted:
            client.get(url)
        told = [q["sql"] for q in counted.captured_queries if "COUNT(" in q["sql"]]
        unbounded = [
            sql for sql in told if "LIMIT" not in sql and '"annotator_id" =' not in sql
        ]
        assert not unbounded


def test_a_pair_that_passes_between_two_counts_is_in_both(db):
    project = make_project()
    known = {"totals": {"sound": 21}, "rounds": {"next": {"pairs": 22}}}
    figures.put_counts(project, make_user(), known)
    assert (project.n_sound, project.n_new) == (22, 22)

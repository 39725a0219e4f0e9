"""Home, a project's overview, a new project, members, and the frame around them."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation.desk import waited_for
from annotation.models import Project, Role
from inference.errors import InferenceError
from inference.models import Replica
from tests.annotation.pages import html
from tests.factories import (
    make_base,
    make_comparison,
    make_judgment,
    make_lease,
    make_pair,
    make_policy,
    make_project,
    make_prompt,
    make_user,
)
from training.models import TrainingRound

pytestmark = pytest.mark.both_databases


# --- Home ---------------------------------------------------------------------------
def test_home_tells_an_annotator_how_much_waits(client, project, annotator):
    """Four are open; one of them is judged by the annotator, one by somebody else,
    whose judgment fills its only slot: two wait."""
    for _number in range(2):
        make_comparison(project=project)
    make_judgment(project=project, annotator=annotator)
    make_judgment(project=project)
    client.force_login(annotator)
    text = html(client.get(reverse("home")))
    assert "Comparisons waiting for you: 2" in text
    assert reverse("compare", args=[project.slug]) in text


def test_the_pair_on_ones_own_desk_counts_as_waiting(client, project, annotator):
    make_lease(comparison=make_comparison(project=project), annotator=annotator)
    make_lease(comparison=make_comparison(project=project))
    client.force_login(annotator)
    assert "Comparisons waiting for you: 1" in html(client.get(reverse("home")))


def test_home_tells_a_manager_what_is_missing_until_a_round(client, project, manager):
    client.force_login(manager)
    home = html(client.get(reverse("home")))
    assert "It has no prompts yet" in home
    assert f'href="{reverse("imports", args=[project.slug])}"' in home
    make_prompt(project=project)
    assert "Nothing has been judged yet" in html(client.get(reverse("home")))
    judgment = make_judgment(project=project, verdict="first")
    lost = "The overview says where they are lost"
    home = html(client.get(reverse("home")))
    assert "no sound pair yet" in home and lost in home
    overview = html(client.get(reverse("project", args=[project.slug])))
    assert lost not in overview
    assert "“From judgments to training” below says where they are lost" in overview
    make_pair(judgment=judgment)
    assert "of them new: 1. A round can start" in html(client.get(reverse("home")))


def test_home_shows_a_running_round_with_its_progress(client, project, manager):
    TrainingRound.objects.create(
        project=project,
        number=3,
        state="training",
        start=make_base(),
        reference="base",
        data="all",
        step=40,
        total_steps=96,
    )
    client.force_login(manager)
    text = html(client.get(reverse("home")))
    assert "Round 3: training" in text
    assert '<progress value="40" max="96"' in text


def test_home_and_overview_tell_that_the_latest_round_failed(client, project, manager):
    """Else it would be found out by looking at the list of rounds."""
    fields = {"project": project, "start": make_base(), "reference": "base"}
    failed = TrainingRound.objects.create(
        **fields, number=3, state="failed", data="all", error="No disk."
    )
    client.force_login(manager)
    for url in (reverse("home"), reverse("project", args=[project.slug])):
        text = html(client.get(url))
        assert "Round 3 failed." in text and reverse("round", args=[failed.pk]) in text
    again = TrainingRound.objects.create(
        **fields, number=4, state="training", data="all"
    )
    assert "failed." not in html(client.get(reverse("home")))
    again.state = "cancelled"
    again.save()
    assert "failed." not in html(client.get(reverse("home")))


def test_home_sends_a_reviewer_to_the_pairs(client, project):
    client.force_login(make_user(project=project, role=Role.REVIEWER))
    assert reverse("pairs", args=[project.slug]) in html(client.get(reverse("home")))


def test_home_tells_a_stranger_whom_to_ask(client, db):
    client.force_login(make_user("newcomer"))
    text = html(client.get(reverse("home")))
    assert "Ask the manager" in text and "newcomer" in text
    assert reverse("new_project") not in text


def test_home_needs_the_same_queries_for_one_project_and_for_many(
    client, project, manager, django_assert_num_queries
):
    client.force_login(manager)
    # Session, user, figures kept, projects with theirs, two for permissions, three for
    # rounds.
    with django_assert_num_queries(9) as counted:
        client.get(reverse("home"))
    for _number in range(5):
        make_comparison(project=make_project(members={manager: Role.MANAGER}))
    with django_assert_num_queries(len(counted)):
        client.get(reverse("home"))


# --- Overview ------------------------------------------------------------------------
def test_the_overview_shows_the_funnel_with_what_was_lost(client, project):
    make_pair(project=project)
    rejected = make_pair(project=project, state="rejected")
    rejected.verdicts.create(rule="similarity", result="reject", reason="0.97")
    client.force_login(make_user(project=project, role=Role.REVIEWER))
    text = html(client.get(reverse("project", args=[project.slug])))
    assert "−1 The two answers are too similar" in text
    assert "−1 wait for the next round" in text


def test_an_annotator_sees_neither_funnel_nor_members_nor_policy(
    client, project, annotator, manager
):
    client.force_login(annotator)
    text = html(client.get(reverse("project", args=[project.slug])))
    assert "From judgments to training" not in text
    assert manager.username not in text
    assert project.channel.serving.name not in text


def test_the_overview_counts_each_ones_judgments_of_this_project_alone(
    client, project, manager, annotator
):
    make_judgment(project=project, annotator=annotator)
    make_judgment(project=project, annotator=annotator, undone_at="2026-01-01T00:00Z")
    make_judgment(project=make_project(), annotator=annotator)
    client.force_login(manager)
    people = client.get(reverse("project", args=[project.slug])).context["people"]
    assert {row["username"]: row["judgments"] for row in people} == {"alice": 1}


def test_guidelines_are_rendered_and_harmless(client, project, annotator):
    project.guidelines = "**Be kind** <img src=x onerror=alert(1)>"
    project.save()
    client.force_login(annotator)
    text = html(client.get(reverse("project", args=[project.slug])))
    assert "<strong>Be kind</strong>" in text
    assert "<img src=x" not in text


def test_the_overview_says_when_another_base_is_served(
    client, project, manager, settings
):
    settings.VLLM_URLS = ["http://localhost:9"]
    replica = Replica.objects.create(url="http://localhost:9", base=project.base)
    client.force_login(manager)
    url = reverse("project", args=[project.slug])
    assert "This project was made with" not in html(client.get(url))
    replica.base = make_base(name="policy-0000-0ddba5e0")
    replica.save()
    text = html(client.get(url))
    assert "This project was made with" in text and "policy-0000-0ddba5e0" in text


def test_queries_of_the_overview_do_not_grow_with_the_rows(
    client, project, manager, django_assert_max_num_queries
):
    def queries() -> int:
        with django_assert_max_num_queries(40) as counted:
            client.get(reverse("project", args=[project.slug]))
        return len(counted)

    client.force_login(manager)
    make_pair(project=project)
    few = queries()
    for _number in range(5):
        make_pair(project=project)
    assert queries() == few


def test_the_servers_are_asked_for_once(client, project, manager):
    """For whether they are ready or stopped, refuse the policy, serve another base."""
    project.channel.serving = make_policy(project=project)
    project.channel.save()
    make_prompt(project=project)
    client.force_login(manager)
    with CaptureQueriesContext(connection) as asked:
        waited_for(project)
    assert sum("inference_replica" in query["sql"] for query in asked) == 1
    with CaptureQueriesContext(connection) as asked:
        client.get(reverse("project", args=[project.slug]))
    assert sum("inference_replica" in query["sql"] for query in asked) == 1


# --- New project -----------------------------------------------------------------------
@pytest.fixture
def creator(client, db):
    make_base()
    user = make_user(is_staff=True)
    client.force_login(user)
    return user


def test_staff_make_a_project_and_become_its_manager(client, creator, monkeypatch):
    monkeypatch.setattr("inference.services.ensure_base", make_base)
    response = client.post(reverse("new_project"), {"name": "Cooking help"})
    made = Project.objects.get()
    assert response["Location"] == reverse("prompts", args=[made.slug])
    assert made.memberships.get().role == Role.MANAGER
    assert made.memberships.get().user == creator


@pytest.mark.parametrize("model", ["", "Qwen/Qwen2.5-0.5B-Instruct"])
def test_who_makes_a_project_reads_what_the_starter_model_cannot_do(
    client, creator, settings, model
):
    """Asked about weddings it told of chess, and no page said why."""
    settings.MODEL = model
    page = html(client.get(reverse("new_project")))
    assert ("It knows the topics of the demo’s prompts" in page) == (not model)


@pytest.mark.parametrize("slug", ["new", "taken", "not a slug"])
def test_a_short_name_that_cannot_be_is_422_and_keeps_what_was_typed(
    client, creator, slug
):
    make_project(slug="taken")
    data = {"name": "Cooking", "slug": slug, "guidelines": "be kind"}
    response = client.post(reverse("new_project"), data)
    assert response.status_code == 422
    assert "be kind" in html(response)
    assert Project.objects.count() == 1


@pytest.mark.parametrize("slug", ["new", "taken", "Taken", "not a slug"])
def test_all_that_is_wrong_with_a_new_project_is_told_at_once_at_its_field(
    client, creator, slug
):
    make_project(slug="taken")
    data = {"name": "", "slug": slug, "guidelines": "x" * 100_001}
    text = html(client.post(reverse("new_project"), data))
    for name in data:
        assert f'id="id_{name}_error"' in text
    assert 'notice bad" role="alert"' not in text


def test_a_new_project_without_a_base_is_told_why(db, client, monkeypatch):
    def missing():
        raise InferenceError("There is no starter model.", permanent=True)

    monkeypatch.setattr("inference.services.ensure_base", missing)
    client.force_login(make_user("boss", is_staff=True))
    response = client.post(reverse("new_project"), {"name": "Cooking help"})
    assert response.status_code == 422
    assert "There is no starter model." in response.content.decode()
    assert not Project.objects.filter(name="Cooking help").exists()


def test_others_may_not_make_projects(client, db):
    client.force_login(make_user())
    assert client.get(reverse("new_project")).status_code == 403


# --- Members ------------------------------------------------------------------------------
@pytest.fixture
def members_url(client, project, manager):
    client.force_login(manager)
    return reverse("members", args=[project.slug])


def roles(project) -> dict[str, str]:
    return dict(project.memberships.values_list("user__username", "role"))


def test_a_manager_adds_changes_and_removes_a_member(client, project, members_url):
    make_user("dora")
    client.post(members_url, {"username": "dora", "role": "annotator"})
    assert roles(project) == {"mallory": "manager", "dora": "annotator"}
    client.post(members_url, {"username": "dora", "role": "reviewer"})
    assert roles(project)["dora"] == "reviewer"
    response = client.post(members_url, {"username": "dora", "remove": "1"})
    assert response.status_code == 302
    assert roles(project) == {"mallory": "manager"}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"username": "nobody", "role": "annotator"}, "There is no user"),
        ({"username": "mallory", "role": "annotator"}, "at least one manager"),
        ({"username": "mallory", "remove": "1"}, "at least one manager"),
        ({"username": "mallory", "role": "emperor"}, "emperor"),
        ({"username": "", "role": "annotator"}, "required"),
    ],
)
def test_a_wrong_member_is_422_with_the_reason_and_changes_nothing(
    client, project, members_url, data, told
):
    response = client.post(members_url, data)
    assert response.status_code == 422
    assert told in html(response)
    assert roles(project) == {"mallory": "manager"}


# --- The frame -----------------------------------------------------------------------------
def test_every_page_forbids_inline_code_and_has_none(client, project, manager):
    make_pair(project=project, annotator=manager)
    make_comparison(project=project)
    client.force_login(manager)
    names = ["project", "compare", "history", "pairs", "prompts", "members"]
    urls = [reverse(name, args=[project.slug]) for name in [*names, "project_settings"]]
    for url in [*urls, reverse("home"), "/nothing/"]:
        response = client.get(url)
        policy = response["Content-Security-Policy"]
        assert "unsafe" not in policy and "script-src 'self'" in policy
        text = html(response)
        for inline in (" style=", "<style", " onclick=", " onsubmit=", "<script>"):
            assert inline not in text, f"{url}: {inline}"


def test_the_language_can_be_switched_and_the_page_says_so(client, db):
    assert '<html lang="en"' in html(client.get(reverse("login")))
    response = client.post(
        reverse("set_language"), {"language": "zh-hans", "next": reverse("login")}
    )
    assert response["Location"] == reverse("login")
    assert '<html lang="zh-hans"' in html(client.get(reverse("login")))


def test_signing_in_with_a_wrong_password_says_so(client, db):
    make_user("alice", password="right")
    response = client.post(reverse("login"), {"username": "alice", "password": "wrong"})
    assert 'role="alert"' in html(response)
    response = client.post(reverse("login"), {"username": "alice", "password": "right"})
    assert response["Location"] == reverse("home")


def test_the_navigation_shows_what_the_role_may_open(
    client, project, annotator, manager
):
    pairs = reverse("pairs", args=[project.slug])
    url = reverse("project", args=[project.slug])
    client.force_login(annotator)
    assert f'href="{pairs}"' not in html(client.get(url))
    client.force_login(manager)
    assert f'href="{pairs}"' in html(client.get(url))


def test_a_fault_of_ours_is_a_calm_page_without_a_traceback(client, db, monkeypatch):
    def broken(*_args):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("annotation.views.home.figures.rows_for", broken)
    client.raise_request_exception = False
    client.force_login(make_user())
    response = client.get(reverse("home"))
    assert response.status_code == 500
    assert "Something broke on our side" in html(response)
    assert "secret detail" not in html(response)

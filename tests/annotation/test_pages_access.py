"""Who gets which page: stated once per address, tried with every kind of reader."""

import pytest
from django.urls import reverse

from annotation.models import Role
from tests.factories import make_comparison, make_judgment, make_lease, make_user

PAGES = {
    "project": Role.ANNOTATOR,
    "compare": Role.ANNOTATOR,
    "history": Role.ANNOTATOR,
    "pairs": Role.REVIEWER,
    "quality": Role.REVIEWER,
    "review": Role.REVIEWER,
    "export_pairs": Role.REVIEWER,
    "prompts": Role.MANAGER,
    "members": Role.MANAGER,
    "project_settings": Role.MANAGER,
}
RANK = [Role.ANNOTATOR, Role.REVIEWER, Role.MANAGER]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("role", RANK)
def test_a_member_gets_the_pages_of_their_role_and_403_above_it(
    client, project, name, role
):
    client.force_login(make_user(project=project, role=role))
    status = client.get(reverse(name, args=[project.slug])).status_code
    allowed = RANK.index(role) >= RANK.index(PAGES[name])
    assert status == (200 if allowed else 403)


@pytest.mark.parametrize("name", PAGES)
def test_a_stranger_gets_404_as_if_there_were_no_project(client, project, name):
    client.force_login(make_user())
    response = client.get(reverse(name, args=[project.slug]))
    assert response.status_code == 404
    assert project.name not in response.content.decode()


@pytest.mark.parametrize("name", PAGES)
def test_an_anonymous_reader_is_sent_to_sign_in_and_back(client, project, name):
    url = reverse(name, args=[project.slug])
    response = client.get(url)
    assert response.status_code == 302
    assert response["Location"] == f"{reverse('login')}?next={url}"


@pytest.mark.parametrize("name", PAGES)
def test_a_superuser_gets_every_page(client, project, name):
    client.force_login(make_user(is_superuser=True))
    assert client.get(reverse(name, args=[project.slug])).status_code == 200


@pytest.fixture
def acts(project, annotator):
    """The three acts on the annotator's own lease and judgment."""
    judgment = make_judgment(project=project, annotator=annotator)
    lease = make_lease(comparison=make_comparison(project=project), annotator=annotator)
    return {
        "judge": reverse("judge", args=[lease.key]),
        "skip": reverse("skip", args=[lease.key]),
        "undo": reverse("undo", args=[judgment.pk]),
    }


ACTS = ["judge", "skip", "undo"]


@pytest.mark.parametrize("act", ACTS)
def test_an_act_cannot_be_done_by_a_link(client, acts, annotator, act):
    client.force_login(annotator)
    assert client.get(acts[act]).status_code == 405


@pytest.mark.parametrize("act", ACTS)
def test_nobody_acts_on_what_belongs_to_another(
    client, acts, other_annotator, manager, act
):
    for user in (other_annotator, manager, make_user()):
        client.force_login(user)
        assert client.post(acts[act], {"verdict": "first"}).status_code == 404


@pytest.mark.parametrize("act", ACTS)
def test_an_act_after_the_session_ended_leads_to_sign_in(client, acts, act):
    response = client.post(acts[act], {"verdict": "first"})
    assert response.status_code == 302
    assert response["Location"].startswith(reverse("login"))


@pytest.mark.parametrize("act", ACTS)
def test_an_act_without_a_csrf_token_is_refused(acts, annotator, act):
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(annotator)
    response = client.post(acts[act], {"verdict": "first"})
    assert response.status_code == 403
    assert "Nothing was changed" in response.content.decode()


@pytest.mark.parametrize(
    "name", ["project", "compare", "history", "pairs", "export_pairs", "quality"]
)
def test_a_page_to_be_read_takes_no_post(client, project, manager, name):
    client.force_login(manager)
    assert client.post(reverse(name, args=[project.slug])).status_code == 405

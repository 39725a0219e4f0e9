"""The page of policies: what it shows, deploying, rolling back, and who may."""

import pytest
from django.urls import reverse

from inference.errors import InferenceError
from inference.models import Channel
from tests.factories import (
    make_comparison,
    make_judgment,
    make_policy,
    make_prompt,
    make_server,
    make_user,
)
from tests.training.conftest import make_pairs
from training import promotion
from training.rounds import start_round
from training.running import run_round

pytestmark = pytest.mark.django_db


def test_policies_show_state_ancestry_and_what_made_them(as_reviewer, project, manager):
    make_pairs(project, 2)
    training_round = start_round(project, manager)
    run_round(training_round.pk)
    training_round.refresh_from_db()
    child = make_policy(project=project, parent=training_round.policy, number=99)
    page = as_reviewer.get(reverse("policies", args=[project.slug])).content.decode()
    assert page.index(child.name) < page.index(f"{project.base.name}</span> <span")
    assert f"{training_round.policy.name}</span> → <strong>this</strong>" in page
    assert "Round 1" in page and "Deploy" not in page


def test_a_serving_policy_that_no_server_can_be_given_back_says_why_and_what_to_do(
    as_reviewer, project
):
    policy = make_policy(project=project)
    Channel.objects.filter(pk=project.channel_id).update(serving=policy)
    server = make_server(base=project.base)
    policies = reverse("policies", args=[project.slug])
    overview = reverse("project", args=[project.slug])
    assert "It can’t be loaded" not in as_reviewer.get(policies).content.decode()
    server.refused = {policy.name: "Its files are gone: adapter_config.json"}
    server.save()
    for address in (policies, overview):
        page = as_reviewer.get(address).content.decode()
        assert "Its files are gone: adapter_config.json" in page
    assert "or roll back" in as_reviewer.get(policies).content.decode()
    make_prompt(project=project)
    as_reviewer.force_login(make_user(project=project))
    desk = as_reviewer.get(reverse("compare", args=[project.slug])).content.decode()
    assert "A manager sees why." in desk and policy.name not in desk


def test_a_refused_deployment_changes_nothing_and_says_why(as_manager, project):
    """No vLLM runs here, so inference refuses by itself."""
    policy = make_policy(project=project)
    response = as_manager.post(reverse("deploy", args=[policy.name]))
    assert response.status_code == 409
    page = response.content.decode()
    assert "Nothing was changed" in page and "run_vllm" in page
    project.channel.refresh_from_db()
    assert project.channel.serving == project.base


def test_deploying_and_rolling_back(as_manager, project, manager, monkeypatch):
    asked = []

    class Done:
        policy = project.base

    monkeypatch.setattr(
        promotion, "promote", lambda *a: asked.append(("promote", *a)) or Done
    )
    monkeypatch.setattr(
        promotion, "rollback", lambda *a: asked.append(("rollback", *a)) or Done
    )
    policy = make_policy(project=project)
    policies = reverse("policies", args=[project.slug])
    assert as_manager.post(reverse("deploy", args=[policy.name])).url == policies
    assert as_manager.post(reverse("deploy_base", args=[project.slug])).url == policies
    assert as_manager.post(reverse("rollback", args=[project.slug])).url == policies
    assert asked == [
        ("promote", policy, manager),
        ("promote", project.base, manager, project),
        ("rollback", project, manager),
    ]
    assert (
        f"{project.base.name} serves now." in as_manager.get(policies).content.decode()
    )


def test_nothing_to_roll_back_to_is_said(as_manager, project):
    response = as_manager.post(reverse("rollback", args=[project.slug]))
    assert response.status_code == 409
    assert b"nothing to roll back to" in response.content


def test_a_server_out_of_reach_is_a_refusal_too(as_manager, project, monkeypatch):
    def broken(*_args):
        raise InferenceError("vLLM does not answer.")

    monkeypatch.setattr(promotion, "promote", broken)
    policy = make_policy(project=project)
    response = as_manager.post(reverse("deploy", args=[policy.name]))
    assert response.status_code == 409 and b"does not answer" in response.content


@pytest.mark.parametrize("name", ["deploy", "deploy_base", "rollback"])
def test_only_a_manager_deploys(client, project, name):
    policy = make_policy(project=project)
    url = reverse(name, args=[policy.name if name == "deploy" else project.slug])
    client.force_login(make_user())
    assert client.post(url).status_code == 404
    client.force_login(make_user(project=project, role="reviewer"))
    assert client.post(url).status_code == 403
    assert client.get(url).status_code == 405


@pytest.mark.both_databases
def test_a_name_that_no_policy_can_have_is_404(client, project, manager):
    client.force_login(manager)
    assert client.post("/policies/a%00b/deploy/").status_code == 404


def test_the_overview_leads_whoever_waits_in_vain_to_the_policy_that_cannot_load(
    as_manager, project
):
    annotator = make_user("alice", project=project)
    make_judgment(comparison=make_comparison(project=project), annotator=annotator)
    policy = make_policy(project=project)
    Channel.objects.filter(pk=project.channel_id).update(serving=policy)
    server = make_server(base=project.base)
    overview = reverse("project", args=[project.slug])
    more, cannot = "Keep more ready", "serving policy can’t be loaded"
    page = as_manager.get(overview).content.decode()
    assert more in page and cannot not in page
    server.refused = {policy.name: "Its files are gone: adapter_config.json"}
    server.save()
    page = as_manager.get(overview).content.decode()
    assert cannot in page and more not in page

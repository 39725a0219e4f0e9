"""Rounds, their metrics, policies: what reviewers read and managers do."""

import pytest
from django.utils import timezone

from inference.errors import AdapterRefused, DeployRefused
from inference.models import Channel
from tests.api.helpers import V1, assert_problem
from tests.factories import make_base, make_pair, make_policy, make_project
from training.models import RoundMetric, TrainingRound

ROUNDS = f"{V1}/projects/demo/rounds"
POLICIES = f"{V1}/projects/demo/policies"
pytestmark = pytest.mark.django_db


def make_round(project, **fields):
    fields.setdefault("number", TrainingRound.objects.count() + 1)
    fields.setdefault("start", project.base)
    fields.setdefault("reference", "base")
    fields.setdefault("data", "all")
    return TrainingRound.objects.create(project=project, **fields)


@pytest.fixture
def running(project):
    return make_round(
        project, state="training", step=40, total_steps=96, eta_seconds=31.4
    )


def test_a_manager_starts_a_round_of_all_sound_pairs(project, mona):
    for _number in range(3):
        make_pair(project=project)
    response = mona.post(ROUNDS, {"config": {"beta": 0.2}}, format="json")
    assert response.status_code == 201, response.content
    row = response.json()
    assert row["project"] == "demo"
    assert (row["state"], row["pairs"], row["number"]) == ("queued", 3, 1)
    assert (row["policy"], row["error"]) == (None, None)
    assert set(row["progress"]) == {"step", "total_steps", "eta_seconds"}
    assert row["config"]["beta"] == 0.2
    assert (row["preset"], row["start"]) == ("cumulative", project.base.name)
    assert row["created_by"] == "mona" and row["created_at"].endswith("Z")


def test_a_body_may_be_left_out(project, mona):
    for _number in range(2):
        make_pair(project=project)
    assert mona.post(ROUNDS).status_code == 201


def test_one_round_at_a_time(project, mona, running):
    for _number in range(2):
        make_pair(project=project)
    assert_problem(mona.post(ROUNDS, {}, format="json"), 409)
    assert TrainingRound.objects.count() == 1


def test_too_few_pairs_is_422_with_the_funnel(project, mona):
    make_pair(project=project)
    problem = assert_problem(mona.post(ROUNDS, {}, format="json"), 422)
    assert problem["funnel"][0]["count"] == 1
    assert all("lost" in step for step in problem["funnel"])


@pytest.mark.parametrize(
    "body",
    [
        {"start": "policy-9999-deadbeef"},
        {"start": 7, "preset": []},
        {"reference": "nothing"},
        {"data": "some"},
        {"preset": "fast"},
        {"config": {"betta": 0.1}},
        {"config": {"beta": "large"}},
        {"config": {"beta": 10**400}},
        {"config": {"loss": {"sigmoid": 10**400}}},
        {"config": {"base_model": "/etc/passwd"}},
        {"config": [1]},
        {"epochs": 3},
    ],
)
def test_what_cannot_be_is_422(project, mona, body):
    for _number in range(2):
        make_pair(project=project)
    assert_problem(mona.post(ROUNDS, body, format="json"), 422)
    assert not TrainingRound.objects.exists()


def test_reviewers_read_rounds_newest_first_in_pages(project, rita):
    for _number in range(3):
        make_round(project, state="failed", error="Out of memory.")
    make_round(make_project())
    page = rita.get(f"{ROUNDS}?page_size=2").json()
    assert page["count"] == 3
    assert [row["number"] for row in page["results"]] == [3, 2]
    assert page["results"][0]["error"] == "Out of memory."
    assert [row["number"] for row in rita.get(page["next"]).json()["results"]] == [1]


def test_a_round_tells_its_progress(rita, running):
    row = rita.get(f"{V1}/rounds/{running.pk}").json()
    assert row["id"] == running.pk
    assert row["progress"] == {"step": 40, "total_steps": 96, "eta_seconds": 31}


def test_why_it_failed_is_told_in_the_readers_language(project, rita):
    row = make_round(
        project, state="failed", error="The trainer left no adapter folder."
    )
    make_policy(project=project, rejected_reason="Its files are gone: policies/x")
    policies, told = (
        rita.get(url, headers={"Accept-Language": "zh-hans"}).json()
        for url in (POLICIES, f"{V1}/rounds/{row.pk}")
    )
    assert told["error"] == "训练器没有留下适配器文件夹。"
    assert "文件已不存在" in policies[-1]["rejected_reason"]
    assert rita.get(f"{V1}/rounds/{row.pk}").json()["error"] == row.error


def test_listing_rounds_costs_the_same_for_many(
    project, rita, django_assert_max_num_queries
):
    for _number in range(15):
        policy = make_policy(project=project)
        make_round(project, state="succeeded", policy=policy, created_by=rita.user)
    with django_assert_max_num_queries(4):
        assert len(rita.get(ROUNDS).json()["results"]) == 15


def test_metrics_are_columns_of_equal_length(rita, running):
    rows = [
        (1, {"loss": 0.69, "rewards/margins": 0.0}),
        (2, {"loss": 0.6, "rewards/margins": 0.2, "eval_loss": 0.65}),
        (3, {"loss": None, "rewards/margins": 0.4}),
    ]
    for step, values in rows:
        RoundMetric.objects.create(training_round=running, step=step, values=values)
    RoundMetric.objects.create(
        training_round=running, step=1, phase="sft", values={"loss": 3.0}
    )
    metrics = rita.get(f"{V1}/rounds/{running.pk}/metrics").json()
    assert metrics == {
        "steps": [1, 2, 3],
        "series": {
            "loss": [0.69, 0.6, None],
            "rewards/margins": [0.0, 0.2, 0.4],
            "eval_loss": [None, 0.65, None],
        },
    }
    sft = rita.get(f"{V1}/rounds/{running.pk}/metrics?phase=sft").json()
    assert sft == {"steps": [1], "series": {"loss": [3.0]}}
    assert_problem(rita.get(f"{V1}/rounds/{running.pk}/metrics?phase=x"), 400)


def test_a_round_without_steps_has_empty_metrics(rita, running):
    metrics = rita.get(f"{V1}/rounds/{running.pk}/metrics").json()
    assert metrics == {"steps": [], "series": {}}


def test_a_manager_cancels_and_resumes(project, mona):
    queued = make_round(project)
    cancelled = mona.post(f"{V1}/rounds/{queued.pk}/cancel").json()
    assert cancelled["state"] == "cancelled" and cancelled["finished_at"]
    resumed = mona.post(f"{V1}/rounds/{queued.pk}/resume").json()
    assert (resumed["state"], resumed["id"]) == ("queued", queued.pk)


def test_what_has_ended_cannot_be_cancelled_nor_resumed(project, mona):
    done = make_round(project, state="succeeded", policy=make_policy(project=project))
    assert_problem(mona.post(f"{V1}/rounds/{done.pk}/cancel"), 409)
    assert_problem(mona.post(f"{V1}/rounds/{done.pk}/resume"), 409)


@pytest.mark.parametrize("call", ["", "/metrics"])
def test_rounds_are_read_by_reviewers(alice, charlie, nobody, running, call):
    url = f"{V1}/rounds/{running.pk}{call}"
    assert_problem(alice.get(url), 403)
    assert_problem(charlie.get(url), 404)
    assert_problem(nobody.get(url), 401)


@pytest.mark.parametrize("call", ["cancel", "resume"])
def test_rounds_are_moved_by_managers(alice, rita, charlie, running, call):
    url = f"{V1}/rounds/{running.pk}/{call}"
    assert_problem(alice.post(url), 403)
    assert_problem(rita.post(url), 403)
    assert_problem(charlie.post(url), 404)
    running.refresh_from_db()
    assert running.state == "training" and not running.cancel_requested


def test_a_round_that_is_none_is_404(mona):
    for pk in (99_999, 10**30):
        assert_problem(mona.get(f"{V1}/rounds/{pk}"), 404)
        assert_problem(mona.get(f"{V1}/rounds/{pk}/metrics"), 404)
        assert_problem(mona.post(f"{V1}/rounds/{pk}/cancel"), 404)


# --- Policies ----------------------------------------------------------------------
def test_policies_come_with_states_the_base_first(project, rita):
    candidate = make_policy(project=project)
    make_policy(project=project, rejected_reason="NaN in its weights")
    made = make_round(project, state="succeeded", policy=candidate)
    make_policy()
    base, second, third = rita.get(POLICIES).json()
    assert (base["name"], base["state"], base["parent"]) == (
        project.base.name,
        "serving",
        None,
    )
    assert (second["state"], second["round"], second["parent"]) == (
        "candidate",
        made.pk,
        project.base.name,
    )
    assert (third["state"], third["round"]) == ("rejected", None)
    assert {row["win_rate"] for row in (base, second, third)} == {None}


def test_listing_policies_costs_the_same_for_many(
    project, rita, django_assert_max_num_queries
):
    for _number in range(15):
        make_policy(project=project)
    with django_assert_max_num_queries(6):
        assert len(rita.get(POLICIES).json()) == 16


@pytest.fixture
def deployed(monkeypatch):
    """Deploying without a vLLM: flips the pointer, refuses what a test tells it to."""

    def promote(policy, by=None, project=None):
        if policy.rejected_reason:
            raise AdapterRefused(policy.rejected_reason)
        Channel.objects.filter(pk=project.channel_id).update(serving=policy)

    monkeypatch.setattr("training.promotion.promote", promote)


def test_a_manager_deploys_and_gets_what_serves(project, mona, deployed):
    policy = make_policy(project=project)
    row = mona.post(f"{V1}/policies/{policy.name}/deploy").json()
    assert (row["name"], row["state"]) == (policy.name, "serving")


def test_a_policy_is_deployed_in_no_project_but_its_own(project, mona, deployed):
    policy = make_policy(project=project)
    other = make_project(slug="other", members={mona.user: "manager"})
    url = f"{V1}/policies/{policy.name}/deploy"
    assert_problem(mona.post(url, {"project": "other"}, format="json"), 404)
    for one in (project, other):
        one.channel.refresh_from_db()
        assert one.channel.serving == project.base
    assert mona.post(url, {"project": "demo"}, format="json").status_code == 200


def test_a_policy_that_is_refused_says_why(project, mona, deployed):
    policy = make_policy(project=project, rejected_reason="Its shapes do not fit.")
    problem = assert_problem(mona.post(f"{V1}/policies/{policy.name}/deploy"), 422)
    assert problem["detail"] == "Its shapes do not fit."


def test_the_base_is_deployed_for_a_project_that_is_named(project, mona, deployed):
    url = f"{V1}/policies/{project.base.name}/deploy"
    assert_problem(mona.post(url), 422, field="project")
    assert_problem(mona.post(url, {"project": "no-such"}, format="json"), 404)
    assert mona.post(url, {"project": "demo"}, format="json").status_code == 200


def test_another_base_is_deployed_in_no_project(project, mona, deployed):
    """MODEL named another one: rounds would go on from the project's own."""
    other = make_base(name="policy-0000-0ddba5e5")
    url = f"{V1}/policies/{other.name}/deploy"
    assert_problem(mona.post(url, {"project": "demo"}, format="json"), 404)
    assert Channel.objects.get(pk=project.channel_id).serving == project.base


def test_deploying_is_for_the_managers_of_its_project(
    project, alice, rita, charlie, mona, deployed
):
    url = f"{V1}/policies/{make_policy(project=project).name}/deploy"
    assert_problem(alice.post(url), 403)
    assert_problem(rita.post(url), 403)
    assert_problem(charlie.post(url), 404)
    assert_problem(mona.post(f"{V1}/policies/{make_policy().name}/deploy"), 404)
    assert_problem(mona.post(f"{V1}/policies/policy-0000-00000000/deploy"), 404)
    base = f"{V1}/policies/{project.base.name}/deploy"
    assert_problem(charlie.post(base, {"project": "demo"}, format="json"), 404)
    assert Channel.objects.get(pk=project.channel_id).serving == project.base


def test_rolling_back_gives_what_serves_or_says_why_not(project, mona, monkeypatch):
    def rollback(project, by=None):
        raise DeployRefused("Nothing served before.")

    url = f"{V1}/projects/demo/rollback"
    monkeypatch.setattr("training.promotion.rollback", rollback)
    assert assert_problem(mona.post(url), 409)["detail"] == "Nothing served before."

    monkeypatch.setattr("training.promotion.rollback", lambda project, by=None: None)
    assert mona.post(url).json()["name"] == project.base.name


def test_rolling_back_is_for_managers(alice, rita, charlie):
    url = f"{V1}/projects/demo/rollback"
    assert_problem(alice.post(url), 403)
    assert_problem(rita.post(url), 403)
    assert_problem(charlie.post(url), 404)


def test_instants_of_a_round_are_utc(project, rita):
    row = make_round(project, started_at=timezone.now())
    assert rita.get(f"{V1}/rounds/{row.pk}").json()["started_at"].endswith("Z")


def test_policies_are_for_reviewers(alice, charlie):
    for url in (POLICIES, ROUNDS):
        assert_problem(alice.get(url), 403)
        assert_problem(charlie.get(url), 404)


def test_starting_a_round_is_for_managers(project, alice, rita, charlie):
    for _number in range(2):
        make_pair(project=project)
    assert_problem(alice.post(ROUNDS), 403)
    assert_problem(rita.post(ROUNDS), 403)
    assert_problem(charlie.post(ROUNDS), 404)
    assert not TrainingRound.objects.exists()

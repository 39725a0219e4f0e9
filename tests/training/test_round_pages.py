"""The pages of rounds: who may, what they show, polling, cancel and resume."""

import html
import json
import re
from datetime import UTC, datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from inference import services
from inference.models import Deployment, Replica
from tests.factories import make_policy, make_user
from tests.training.conftest import make_pairs
from training import attempts, ingest, queries
from training.models import TrainingRound
from training.rounds import start_round
from training.running import run_round, vllm_reason
from training.views import rounds

pytestmark = pytest.mark.django_db


@pytest.fixture
def running(project, manager):
    """A round in training at step 12 of 40."""
    make_pairs(project, 3)
    training_round = attempts.claim(start_round(project, manager).pk)
    TrainingRound.objects.filter(pk=training_round.pk).update(
        state="training",
        step=12,
        total_steps=40,
        eta_seconds=31,
        activity={"phase": "training", "done": 12, "of": 40},
    )
    ingest.store_metrics(
        training_round,
        [
            {
                "step": step,
                "loss": 0.69 - step / 100,
                "rewards/chosen": -step / 10,
                "rewards/rejected": -step / 4,
                "rewards/margins": step * 0.15,
                "rewards/accuracies": 0.5,
            }
            for step in range(1, 13)
        ],
    )
    training_round.refresh_from_db()
    return training_round


def rounds_url(project):
    return reverse("rounds", args=[project.slug])


@pytest.mark.parametrize(
    ("came_to", "is_new"),
    [
        ("failed", True),
        ("cancelled", True),
        ("rolled back", True),
        ("succeeded", False),
    ],
)
def test_pairs_of_a_round_that_came_to_nothing_are_new_again(
    as_manager, project, manager, came_to, is_new
):
    make_pairs(project, 3)
    training_round = start_round(project, manager)
    policy, state = None, came_to
    if came_to in ("succeeded", "rolled back"):
        policy, state = make_policy(project=project), "succeeded"
        flips = [(policy, project.base, False), (project.base, policy, True)]
        for to, of, is_rollback in flips[: 2 if came_to == "rolled back" else 1]:
            Deployment.objects.create(
                channel=project.channel, policy=to, previous=of, is_rollback=is_rollback
            )
    TrainingRound.objects.filter(pk=training_round.pk).update(
        state=state, policy=policy
    )
    for page in (reverse("home"), reverse("project", args=[project.slug])):
        text = as_manager.get(page).content.decode()
        assert ("of them new: 3. A round can start." in text) is is_new
    last = as_manager.get(reverse("project", args=[project.slug])).context["funnel"][-1]
    free, taken = (3, 0) if is_new else (0, 3)
    assert (last["step"], last["count"]) == ("trained", taken)
    assert [number for _words, number in last["lost"]] == [free] * is_new


def series_in(response):
    found = re.search(r'data-series="([^"]*)"', response.content.decode())
    return json.loads(html.unescape(found[1]))


# --- The list and its form -------------------------------------------------------------


def test_the_list_offers_the_start_with_the_number_of_pairs(as_manager, project):
    make_pairs(project, 4, held_out=1)
    page = as_manager.get(rounds_url(project)).content.decode()
    assert page.count("<b>4</b> pairs to train on now") == 2
    assert "Start the round" in page


def test_few_pairs_are_warned_of_where_there_are_any(as_manager, project):
    url = reverse("rounds", args=[project.slug])
    assert "few: expect small gains" not in as_manager.get(url).content.decode()
    make_pairs(project, 1)
    assert "few: expect small gains" in as_manager.get(url).content.decode()


def test_a_reviewer_reads_the_list_but_is_offered_no_start(as_reviewer, project):
    response = as_reviewer.get(rounds_url(project))
    assert response.status_code == 200
    assert b"Start the round" not in response.content


def test_a_manager_starts_a_round_and_is_taken_to_it(as_manager, project, manager):
    make_pairs(project, 2)
    response = as_manager.post(
        rounds_url(project),
        {"preset": "incremental", "beta": "0.2", "lora_r": "8", "epochs": ""}
        | {"sft_epochs": "2", "sft_learning_rate": "1e-4"},
    )
    training_round = TrainingRound.objects.get()
    assert response.status_code == 302
    assert response.url == reverse("round", args=[training_round.pk])
    assert training_round.created_by == manager
    assert training_round.preset == "incremental"
    assert training_round.config == {
        "beta": 0.2,
        "lora": {"r": 8},
        "sft_epochs": 2,
        "sft_learning_rate": 1e-4,
    }


def test_a_refusal_says_why_and_shows_the_funnel(as_manager, project):
    make_pairs(project, 1)
    response = as_manager.post(rounds_url(project), {"preset": "cumulative"})
    assert response.status_code == 422
    page = response.content.decode()
    assert "at least 2 sound pairs; there are 1." in page
    assert "Where the pairs are lost" in page and "Pairs for training" in page
    assert not TrainingRound.objects.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "quick"},
        {"beta": "a lot"},
        {"epochs": "-1"},
        {"sft_epochs": "-1"},
        {"start": "policy-0099-00000000"},
        {"learning_rate": "nan"},
        {"seed": "1.5"},
    ],
)
def test_a_wrong_field_starts_nothing_and_is_named(as_manager, project, wrong):
    make_pairs(project, 2)
    response = as_manager.post(rounds_url(project), wrong)
    assert response.status_code == 422
    assert b'class="error"' in response.content or b"alert" in response.content
    assert not TrainingRound.objects.exists()


def test_what_only_the_trainer_refuses_is_shown_too(as_manager, project):
    make_pairs(project, 2)
    response = as_manager.post(rounds_url(project), {"beta": "0"})
    assert response.status_code == 422
    assert "&quot;beta&quot; must be" in response.content.decode()


def test_while_a_round_runs_the_list_leads_to_it(as_manager, project, running):
    page = as_manager.get(rounds_url(project)).content.decode()
    assert "Round 1 is training" in page and "Start the round" not in page
    assert as_manager.post(rounds_url(project), {}).status_code == 409


def test_the_list_takes_the_same_queries_for_many_rounds(
    as_reviewer, project, manager, django_assert_num_queries
):
    make_pairs(project, 2)

    def count():
        with CaptureQueriesContext(
            connection,
        ) as queries:
            as_reviewer.get(rounds_url(project))
        return len(queries)

    start_round(project, manager)
    TrainingRound.objects.update(state="failed")
    one = count()
    for _ in range(3):
        start_round(project, manager)
        TrainingRound.objects.update(state="failed")
    assert count() == one


def test_the_list_counts_the_pairs_of_each_round_once(project, manager):
    """A join would carry all columns along with each pair; and sound pairs are the
    dearest count of the page."""
    make_pairs(project, 3)
    start_round(project, manager)
    found = queries.rounds_of(project)
    assert 'JOIN "training_roundpair"' not in str(found.query)
    assert [row.n_pairs for row in found] == [3]
    with CaptureQueriesContext(connection) as asked:
        assert [way["count"] for way in rounds._ways(project, None)] == [3, 3]
    # Of all sound pairs, and of those trained on before.
    counts = [q["sql"] for q in asked if "COUNT(*)" in q["sql"]]
    assert sum("is_held_out" in sql for sql in counts) == 2


# --- One round -------------------------------------------------------------------------


def test_the_page_shows_progress_and_draws_from_the_database(as_reviewer, running):
    response = as_reviewer.get(reverse("round", args=[running.pk]))
    page = response.content.decode()
    assert "Training: step 12 of 40" in page and "about 31 s left" in page
    assert '<progress aria-label="Steps done" max="40" value="12">' in page
    series = series_in(response)
    lines = {line["name"]: line["points"] for line in series["rewards"]}
    assert lines["rewards/margins"][-1] == [12, 1.8]
    assert set(lines) == {"rewards/chosen", "rewards/rejected", "rewards/margins"}
    assert "Both rewards fall while the margin rises" in page
    # The numbers of the charts, for whoever does not see them.
    assert '<td class="numeric">1.8</td>' in page
    assert "Cancel the round" not in page


def test_supervised_steps_come_first_and_have_no_rewards(as_reviewer, running):
    """Before DPO begins there is no curve to draw; what they did is said in words."""
    running.metrics.all().delete()
    lines = [
        {"step": step, "phase": "sft", "loss": 3 - step / 10}
        | {"mean_token_accuracy": 0.2 + step / 20, "logps/chosen": -30.0}
        for step in range(1, 11)
    ]
    ingest.store_metrics(running, lines)
    now = {"phase": "sft", "done": None, "of": None}
    TrainingRound.objects.filter(pk=running.pk).update(activity=now)
    url = reverse("round", args=[running.pk])
    response = as_reviewer.get(url)
    page = response.content.decode()
    assert "Supervised training: step 12 of 40" in page
    assert series_in(response) == {"rewards": [], "accuracy": [], "loss": []}
    assert "took its loss from 2.850 to 2.050" in page
    dpo = {"rewards/margins": 0.1, "loss": 0.69, "rewards/accuracies": 0.5}
    ingest.store_metrics(running, [{"step": 11, "phase": "dpo", **dpo}])
    lines = {
        line["name"]: line["points"] for line in series_in(as_reviewer.get(url))["loss"]
    }
    assert lines == {"loss": [[11, 0.69]]}


def test_a_round_without_a_worker_waits_for_one_whatever_it_computes_on(
    as_reviewer, project, manager
):
    make_pairs(project, 3)
    queued = start_round(project, manager)
    page = as_reviewer.get(reverse("round", args=[queued.pk])).content.decode()
    assert "Waiting for a worker." in page and "GPU" not in page


def test_what_happened_on_another_day_is_told_with_the_day(as_reviewer, running):
    first, *later = running.events.all()
    then = datetime(2026, 1, 2, 12, tzinfo=UTC)
    running.events.filter(pk=first.pk).update(at=then)
    page = as_reviewer.get(reverse("round", args=[running.pk])).content.decode()
    told = re.findall(r'<time class="muted numeric"[^>]*>([^<]*)</time>', page)
    assert re.fullmatch(r"2026-01-02 \d\d:00:00", told[0])
    assert len(told) == 1 + len(later) > 1
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", at) for at in told[1:])


def test_no_inline_code_or_style_is_on_the_page(as_manager, running):
    page = as_manager.get(reverse("round", args=[running.pk])).content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\sstyle=|\son\w+=|<style", page)


def test_polling_gets_the_fragment_and_304_while_nothing_changes(as_manager, running):
    url = reverse("round_status", args=[running.pk])
    first = as_manager.get(url, HTTP_HX_REQUEST="true")
    assert first.status_code == 200
    assert b"<html" not in first.content
    assert b'id="live-round"' in first.content
    assert b'hx-swap-oob="true"' in first.content
    assert b'hx-trigger="every 2s"' in first.content
    etag = first["ETag"]
    again = as_manager.get(url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=etag)
    assert again.status_code == 304 and again.content == b""
    attempts.heartbeat(running, step=13)
    moved = as_manager.get(url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=etag)
    assert moved.status_code == 200 and b"step 13 of 40" in moved.content
    assert "no-cache" in moved["Cache-Control"] and "private" in moved["Cache-Control"]


def test_polling_tells_that_the_model_was_stopped_meanwhile(
    as_manager, running, settings
):
    """With VLLM_WHILE_TRAINING=stop that is all that changes while it prepares."""
    TrainingRound.objects.filter(pk=running.pk).update(state="preparing")
    url = reverse("round_status", args=[running.pk])
    etag = as_manager.get(url, HTTP_HX_REQUEST="true")["ETag"]
    address = f"http://127.0.0.1:{settings.VLLM_PORT}"
    Replica.objects.create(url=address, is_managed=True)
    services.set_wanted("stopped", vllm_reason())
    told = as_manager.get(url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=etag)
    assert told.status_code == 200 and vllm_reason() in told.content.decode()
    services.set_wanted("running", "")
    again = as_manager.get(url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=told["ETag"])
    assert again.status_code == 200 and again["ETag"] == etag


def test_polling_ends_with_286_once_the_round_is_over(as_manager, running):
    url = reverse("round_status", args=[running.pk])
    etag = as_manager.get(url, HTTP_HX_REQUEST="true")["ETag"]
    attempts.failed(running, "The trainer failed: no memory left")
    over = as_manager.get(url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=etag)
    assert over.status_code == 286
    assert b"no memory left" in over.content and b"Resume" in over.content
    assert b"hx-trigger" not in over.content
    # Also for a page that was opened when it was over already.
    page = as_manager.get(reverse("round", args=[running.pk]))
    assert b"hx-trigger" not in page.content


def test_the_page_goes_on_until_the_policy_that_deploys_itself_serves(
    as_manager, project, running
):
    """It stayed "candidate" there with "Deploy it …", while the policy served."""
    project.settings = {"auto_deploy": True}
    project.save()
    policy = make_policy(project=project)
    succeeded = {"state": "succeeded", "policy": policy, "deploys_itself": True}
    TrainingRound.objects.filter(pk=running.pk).update(
        **succeeded, finished_at=timezone.now()
    )
    url = reverse("round_status", args=[running.pk])
    waiting = as_manager.get(url, HTTP_HX_REQUEST="true")
    assert waiting.status_code == 200 and b"hx-trigger" in waiting.content
    assert b"serves by itself" in waiting.content
    assert b"Deploy it" not in waiting.content
    same = as_manager.get(
        url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=waiting["ETag"]
    )
    assert same.status_code == 304

    channel = project.channel
    Deployment.objects.create(channel=channel, policy=policy, previous=project.base)
    type(channel).objects.filter(pk=channel.pk).update(serving=policy)
    over = as_manager.get(
        url, HTTP_HX_REQUEST="true", HTTP_IF_NONE_MATCH=waiting["ETag"]
    )
    assert over.status_code == 286 and b"hx-trigger" not in over.content
    assert b">serving<" in over.content and b"by itself" not in over.content


def test_a_page_of_a_finished_round_names_its_policy_and_hardest_pairs(
    as_manager, project, manager
):
    pairs = make_pairs(project, 3)
    training_round = start_round(project, manager)
    run_round(training_round.pk)
    training_round.refresh_from_db()
    page = as_manager.get(reverse("round", args=[training_round.pk])).content.decode()
    assert training_round.policy.name in page and "candidate" in page
    assert page.index("0.500") < page.index("1.500") < page.index("2.500")
    assert str(pairs[0].prompt) in page
    assert "eval_rewards/accuracies" in page


def test_each_setting_stands_once_and_as_the_trainer_takes_it(as_reviewer, running):
    running.config = {"batch_size": 1, "loss": {"sigmoid": 1.0, "sft": 1.0}}
    running.summary = {"chosen": {"batch_size": {"value": 1, "why": "given"}}}
    running.save()
    page = html.unescape(as_reviewer.get(f"/rounds/{running.pk}/").content.decode())
    assert page.count('<dt class="mono">batch_size</dt>') == 1
    assert '<dd class="mono">{"sigmoid": 1.0, "sft": 1.0}</dd>' in page


def test_untrusted_text_is_escaped(as_manager, project, manager):
    from tests.factories import make_comparison, make_completion, make_pair, make_prompt

    prompt = make_prompt("<script>alert(1)</script>", project=project)
    bad = make_completion("<img src=x onerror=alert(1)>", prompt=prompt)
    make_pair(comparison=make_comparison(prompt=prompt, a=bad))
    make_pairs(project, 1)
    training_round = start_round(project, manager)
    run_round(training_round.pk)
    page = as_manager.get(reverse("round", args=[training_round.pk])).content.decode()
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_manager_cancels_and_resumes(as_manager, running):
    page = reverse("round", args=[running.pk])
    assert as_manager.post(reverse("cancel_round", args=[running.pk])).url == page
    running.refresh_from_db()
    assert running.cancel_requested
    assert "Stopping" in as_manager.get(page).content.decode()
    attempts.cancelled(running)
    assert as_manager.post(reverse("resume_round", args=[running.pk])).url == page
    running.refresh_from_db()
    assert running.state == "queued"


def test_a_refused_act_is_explained_on_the_page(as_manager, running):
    TrainingRound.objects.filter(pk=running.pk).update(state="publishing")
    response = as_manager.post(reverse("cancel_round", args=[running.pk]))
    assert response.status_code == 409
    assert b"can no longer be cancelled" in response.content


@pytest.mark.parametrize("name", ["round", "round_status"])
def test_who_may_read_a_round(client, project, running, name):
    url = reverse(name, args=[running.pk])
    assert client.get(url).status_code == 302
    client.force_login(make_user())
    assert client.get(url).status_code == 404
    client.force_login(make_user(project=project))
    assert client.get(url).status_code == 403
    client.force_login(make_user(project=project, role="reviewer"))
    assert client.get(url).status_code == 200
    assert client.post(url).status_code == 405
    assert client.get(reverse(name, args=[10**6])).status_code == 404


@pytest.mark.parametrize("name", ["cancel_round", "resume_round"])
def test_only_a_manager_acts_on_a_round(client, project, running, name):
    url = reverse(name, args=[running.pk])
    client.force_login(make_user())
    assert client.post(url).status_code == 404
    client.force_login(make_user(project=project, role="reviewer"))
    assert client.post(url).status_code == 403
    assert client.get(url).status_code == 405
    running.refresh_from_db()
    assert not running.cancel_requested


def test_a_reviewer_starts_nothing(as_reviewer, project):
    make_pairs(project, 2)
    assert as_reviewer.post(rounds_url(project), {}).status_code == 403
    assert not TrainingRound.objects.exists()


def test_a_rounds_pairs_too_are_asked_for_by_pseudonym_or_ones_own_name(
    client, running, manager
):
    rita = make_user("rita", project=running.project, role="reviewer")
    urls = [
        reverse("export_round", args=[running.pk]),
        reverse("export_round", args=[running.pk]) + "?what=dataset",
        reverse("api_round_pairs", args=[running.pk]),
    ]
    name = running.project.judgments.first().annotator.username
    for user, asked, status in (
        (rita, name, 422),
        (rita, "rita", 200),
        (manager, name, 200),
    ):
        client.force_login(user)
        for url in urls:
            mark = "&" if "?" in url else "?"
            found = client.get(f"{url}{mark}annotator={asked}")
            assert found.status_code == status, (user, asked, url)

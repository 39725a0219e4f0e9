"""reconcile: each half-done state is healed once, and a second look changes nothing."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from inference import policies
from inference.errors import AdapterRefused, DeployRefused
from inference.models import Deployment, Policy, Replica
from tests.factories import make_comparison
from tests.training.conftest import set_row
from training import attempts, ingest, promotion, publishing
from training.errors import StaleRound
from training.models import RoundEvent, TrainingRound
from training.reconcile import reconcile
from training.rounds import cancel_round, start_round
from training.running import run_round, vllm_reason
from training.states import move
from training.tasks import train_round

pytestmark = pytest.mark.django_db

STEPS = ("requeued", "finished", "nudged", "deployed", "vllm", "swept")
NOTHING = dict.fromkeys(STEPS, 0)


def ago(seconds):
    return timezone.now() - timedelta(seconds=seconds)


def test_messages_of_a_round_that_waits_long_expire(queued, monkeypatch, settings):
    """Each after the next was sent: every 30 s, or at the beat's next look, 15 s later."""
    sent = []
    monkeypatch.setattr(
        train_round, "apply_async", lambda **options: sent.append(options)
    )
    set_row(queued, nudged_at=ago(31))
    settings.ROUND_NUDGE_AFTER = 30.0
    assert reconcile() == NOTHING | {"nudged": 1}
    assert [(message["args"], message["expires"]) for message in sent] == [
        ((queued.pk,), 60.0)
    ]


def test_a_fresh_and_a_busy_round_are_left_alone(queued, nudges):
    del nudges[:]
    assert reconcile() == NOTHING
    attempts.claim(queued.pk)
    assert reconcile() == NOTHING and nudges == []


@pytest.mark.parametrize("seconds", [31, -3600])  # The clock was set back an hour.
def test_a_message_that_got_lost_is_sent_again_but_not_at_every_beat(
    queued, nudges, seconds
):
    del nudges[:]
    set_row(queued, nudged_at=ago(seconds))
    assert reconcile() == NOTHING | {"nudged": 1}
    assert reconcile() == NOTHING
    assert nudges == [queued.pk]


@pytest.mark.both_databases
def test_an_attempt_without_heartbeat_is_queued_under_a_new_epoch(queued, settings):
    mine = attempts.claim(queued.pk)
    set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
    assert reconcile()["requeued"] == 1
    queued.refresh_from_db()
    assert (queued.state, queued.epoch, queued.attempts) == ("queued", 2, 1)
    assert reconcile() == NOTHING
    # The supervisor, should it still live, finds out at its next write.
    assert attempts.heartbeat(mine) is False


@pytest.mark.both_databases
@pytest.mark.parametrize("act", ["beats", "publishes"])
@pytest.mark.parametrize("ends", ["queued", "failed", "cancelled"])
def test_a_supervisor_that_wakes_up_in_time_keeps_its_round(
    queued, manager, settings, monkeypatch, act, ends
):
    """It slept through its limit and wakes between reconcile's look and its write."""
    mine = attempts.claim(queued.pk)
    mine = move(mine, "training", at_epoch=mine.epoch)
    if ends == "cancelled" and act == "beats":
        cancel_round(queued, manager)
    set_row(
        queued,
        heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1),
        attempts=settings.ROUND_ATTEMPTS if ends == "failed" else 1,
    )
    state = "publishing" if act == "publishes" else "training"

    def wake_up_first(*args, **kwargs):
        assert attempts.heartbeat(mine)
        if act == "publishes":
            move(mine, "publishing", at_epoch=mine.epoch)
        return move(*args, **kwargs)

    monkeypatch.setattr(attempts, "move", wake_up_first)
    assert reconcile() == NOTHING
    queued.refresh_from_db()
    assert (queued.state, queued.epoch) == (state, mine.epoch)


def test_a_heartbeat_of_the_future_is_of_a_clock_set_back_since(queued, settings):
    attempts.claim(queued.pk)
    set_row(queued, heartbeat_at=ago(-settings.ROUND_HEARTBEAT_LIMIT + 5))
    assert reconcile() == NOTHING  # two hosts' clocks may differ a little
    set_row(queued, heartbeat_at=ago(-3600))
    assert reconcile()["requeued"] == 1


def test_the_third_loss_fails_the_round_and_names_the_worker(queued, settings):
    attempts.claim(queued.pk)
    set_row(queued, attempts=3, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
    reconcile()
    queued.refresh_from_db()
    assert queued.state == "failed"
    assert attempts.me() in queued.error
    assert reconcile() == NOTHING


def test_a_cancelled_round_whose_worker_died_ends_cancelled(queued, manager, settings):
    attempts.claim(queued.pk)
    cancel_round(queued, manager)
    set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
    reconcile()
    queued.refresh_from_db()
    assert queued.state == "cancelled"


class Crash(BaseException):
    """kill -9 as far as the code is concerned: no except clause of ours sees it."""


def crash(*_args, **_kwargs):
    raise Crash


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "where",
    [
        (policies, "register_policy"),  # before the policy's row
        (publishing, "move"),  # after it, before the round's
        (ingest, "store_margins"),  # inside the transaction that ends the round
    ],
    ids=["before", "between", "inside"],
)
def test_a_publisher_that_dies_anywhere_leaves_exactly_one_policy(
    queued, monkeypatch, settings, where
):
    with monkeypatch.context() as broken:
        broken.setattr(*where, crash)
        with pytest.raises(Crash):
            run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "publishing" and queued.policy is None
    assert reconcile() == NOTHING  # it may still be alive
    set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))

    assert reconcile()["finished"] == 1
    queued.refresh_from_db()
    assert queued.state == "succeeded"
    assert [queued.policy] == list(Policy.objects.filter(number__gt=0))
    assert queued.round_pairs.filter(final_margin=None).count() == 0
    assert reconcile() == NOTHING


def fault(*_args, **_kwargs):
    raise RuntimeError("a bug")


def test_a_fault_while_publishing_does_not_train_again(queued, monkeypatch, settings):
    """Training again could give other files, and with them a second policy."""
    with monkeypatch.context() as broken:
        broken.setattr(ingest, "store_margins", fault)
        run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "publishing"
    set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
    assert reconcile()["finished"] == 1
    queued.refresh_from_db()
    assert queued.state == "succeeded"
    assert [queued.policy] == list(Policy.objects.filter(number__gt=0))


def test_a_fault_that_stays_fails_the_round_in_the_end(queued, monkeypatch, settings):
    """So that the project's next round is not blocked for ever."""
    monkeypatch.setattr(ingest, "store_margins", fault)
    run_round(queued.pk)
    for _beat in range(settings.ROUND_ATTEMPTS):
        set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
        reconcile()
    queued.refresh_from_db()
    assert queued.state == "failed"
    assert "a bug" in queued.error


def test_a_publisher_that_was_overtaken_changes_nothing(queued, monkeypatch, settings):
    with monkeypatch.context() as broken:
        broken.setattr(policies, "register_policy", crash)
        with pytest.raises(Crash):
            run_round(queued.pk)
    queued.refresh_from_db()
    late = TrainingRound.objects.get(pk=queued.pk)
    set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
    reconcile()
    events = RoundEvent.objects.count()
    with pytest.raises(StaleRound):
        publishing.publish(late)
    assert Policy.objects.filter(number__gt=0).count() == 1
    assert RoundEvent.objects.count() == events


def deploying(monkeypatch, outcome):
    """deploy_policy without a server: what inference answers is its own test's."""

    def deploy(policy, by=None, channel=None):
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        channel = channel or policy.channel
        deployment = Deployment.objects.create(
            channel=channel, policy=policy, previous=channel.serving, by=by
        )
        type(channel).objects.filter(pk=channel.pk).update(serving=policy)
        return deployment

    monkeypatch.setattr(policies, "deploy_policy", deploy)


def test_auto_deploy_waits_for_vllm_and_says_so_once(queued, monkeypatch):
    project = queued.project
    project.settings = {"auto_deploy": True}
    project.save()
    outcome = [DeployRefused("vLLM is not ready (starting: 2 s).")]
    deploying(monkeypatch, outcome)
    old = make_comparison(project=project)

    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "succeeded" and queued.error == ""
    set_row(queued, finished_at=ago(30))
    assert reconcile() == NOTHING
    outcome[0] = DeployRefused("vLLM is not ready (starting: 17 s).")
    assert reconcile() == NOTHING
    told = queued.events.filter(detail__startswith="vLLM is not ready")
    assert told.count() == 1

    outcome[0] = None
    assert reconcile() == NOTHING | {"deployed": 1}
    project.channel.refresh_from_db()
    assert project.channel.serving == queued.policy
    # Comparisons of the old policy that nobody holds are withdrawn.
    old.refresh_from_db()
    assert old.state == "withdrawn"
    assert reconcile() == NOTHING


def test_a_rejected_policy_is_not_deployed_again_and_again(queued, monkeypatch):
    queued.project.settings = {"auto_deploy": True}
    queued.project.save()
    deploying(monkeypatch, [AdapterRefused("Its canary is off.")])
    run_round(queued.pk)
    queued.refresh_from_db()
    Policy.objects.filter(pk=queued.policy_id).update(rejected_reason="canary")
    set_row(queued, finished_at=ago(30))
    deploying(monkeypatch, [AssertionError("asked again")])
    assert reconcile() == NOTHING


def test_what_a_manager_deployed_since_is_not_overruled(queued, monkeypatch, manager):
    queued.project.settings = {"auto_deploy": True}
    queued.project.save()
    outcome = [DeployRefused("down")]
    deploying(monkeypatch, outcome)
    run_round(queued.pk)
    outcome[0] = None
    set_row(queued, finished_at=ago(30))
    promotion.promote(queued.project.base, manager, queued.project)
    assert reconcile() == NOTHING
    queued.project.channel.refresh_from_db()
    assert queued.project.channel.serving == queued.project.base


def test_without_auto_deploy_the_policy_stays_a_candidate(queued, monkeypatch):
    deploying(monkeypatch, [AssertionError("not asked for")])
    run_round(queued.pk)
    set_row(queued, finished_at=ago(30))
    assert reconcile() == NOTHING


def test_what_was_left_a_candidate_is_not_deployed_by_turning_auto_deploy_on(
    queued, monkeypatch
):
    deploying(monkeypatch, [AssertionError("nobody chose it")])
    run_round(queued.pk)
    set_row(queued, finished_at=ago(30))
    queued.project.settings = {"auto_deploy": True}
    queued.project.save()
    assert reconcile() == NOTHING


def test_reconcile_does_not_deploy_beside_the_one_that_ends_the_round(
    queued, monkeypatch
):
    queued.project.settings = {"auto_deploy": True}
    queued.project.save()
    monkeypatch.setattr(promotion, "auto_deploy", crash)
    with pytest.raises(Crash):
        run_round(queued.pk)
    assert reconcile() == NOTHING
    set_row(queued, finished_at=ago(30))
    with pytest.raises(Crash):
        reconcile()


def test_being_overtaken_by_another_deployment_of_it_is_no_refusal(queued, monkeypatch):
    queued.project.settings = {"auto_deploy": True}
    queued.project.save()

    def overtaken(policy, by=None):
        type(policy.channel).objects.filter(pk=policy.channel_id).update(serving=policy)
        raise DeployRefused("Another policy was deployed meanwhile.")

    monkeypatch.setattr(policies, "deploy_policy", overtaken)
    run_round(queued.pk)
    assert not queued.events.filter(detail__contains="meanwhile").exists()


def test_a_vllm_stopped_for_a_round_that_died_is_started_again(queued, settings):
    settings.VLLM_WHILE_TRAINING = "stop"
    url = f"http://127.0.0.1:{settings.VLLM_PORT}"
    replica = Replica.objects.create(
        url=url, is_managed=True, wanted="stopped", wanted_reason=vllm_reason()
    )
    attempts.claim(queued.pk)
    assert reconcile() == NOTHING
    set_row(queued, heartbeat_at=ago(settings.ROUND_HEARTBEAT_LIMIT + 1))
    assert reconcile()["vllm"] == 1
    replica.refresh_from_db()
    assert (replica.wanted, replica.wanted_reason) == ("running", "")
    # Stopped by a manager for another reason: not ours to start.
    Replica.objects.update(wanted="stopped", wanted_reason="maintenance")
    assert reconcile() == NOTHING


def test_vllm_is_stopped_while_the_round_trains_and_runs_afterwards(
    queued, settings, monkeypatch
):
    settings.VLLM_WHILE_TRAINING = "stop"
    asked = []
    from inference import services

    monkeypatch.setattr(
        services, "set_wanted", lambda state, reason="": asked.append(state)
    )
    monkeypatch.setattr(
        services, "wait_until", lambda state, timeout: asked.append(f"is {state}")
    )
    run_round(queued.pk)
    assert asked == ["stopped", "is stopped", "running"]


def test_one_thing_that_cannot_be_healed_does_not_stop_the_others(
    queued, monkeypatch, nudges, settings
):
    from training import reconcile as module

    def broken():
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "requeue_lost", broken)
    set_row(queued, nudged_at=None)
    assert module.reconcile()["nudged"] == 1


def test_checkpoints_that_a_killed_publisher_left_are_dropped(
    queued, manager, monkeypatch
):
    def killed(_round):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "drop_checkpoints", killed)
        with pytest.raises(SystemExit):
            run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "succeeded"
    left = queued.folder / "attempt-1" / "checkpoints"
    # One that failed goes on from its checkpoints.
    failed = start_round(queued.project, manager)
    set_row(failed, state="failed")
    kept = failed.folder / "attempt-1" / "checkpoints"
    kept.mkdir(parents=True)
    assert left.exists()
    assert reconcile()["swept"] == 1
    assert reconcile()["swept"] == 0
    assert kept.exists() and not left.exists()


def test_the_command_says_what_it_did(queued):
    set_row(queued, nudged_at=None)
    out = StringIO()
    call_command("reconcile", "--once", stdout=out)
    assert "nudged 1" in out.getvalue()


def test_the_command_looks_again_until_ctrl_c_which_is_no_fault(queued, monkeypatch):
    naps = iter([None])

    def sleep(_seconds):
        if next(naps, "no more") == "no more":
            raise KeyboardInterrupt

    monkeypatch.setattr("training.management.commands.reconcile.time.sleep", sleep)
    set_row(queued, nudged_at=None)
    out = StringIO()
    call_command("reconcile", stdout=out)
    looks = out.getvalue().splitlines()
    assert ["nudged 1" in look for look in looks] == [True, False]

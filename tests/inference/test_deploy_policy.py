"""Promotion and rollback: all servers or none, and one winner of a race."""

import errno
import multiprocessing
from datetime import timedelta

import pytest
from django.db import connections
from django.utils import timezone

from inference import policies
from inference.base import ensure_base
from inference.errors import AdapterRefused, DeployRefused
from inference.models import Channel, Deployment, Policy, Replica
from inference.policies import deploy_policy, register_policy, rollback
from inference.queries import (
    channel_policies,
    lineage,
    policy_state,
    recent_policies,
    serving_policy,
)
from inference.replicas import client_of
from inference.services import create_channel
from inference.tending import GRACE, restore_adapters
from tests.factories import make_user
from tests.inference.fake_vllm import FakeFleet
from tests.inference.small_files import CANARY, write_adapter, write_base

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]


@pytest.fixture(autouse=True)
def base(base, settings):
    settings.MODEL_DTYPE = "float32"
    return base


@pytest.fixture
def channel(base):
    return create_channel("demo")


@pytest.fixture
def fleet(base, settings):
    fleet = FakeFleet(settings, base, count=2)
    yield fleet
    fleet.close()


@pytest.fixture
def new_policy(channel, tmp_path):
    """new_policy(): registers the next candidate."""

    def make(seed=1, **changes):
        folder = tmp_path / f"run{seed}" / "adapter"
        write_adapter(folder, tmp_path / "base", seed=seed, **changes)
        return register_policy(channel, serving_policy(channel), folder)

    return make


@pytest.mark.django_db(transaction=True)
def test_a_policy_is_loaded_and_checked_on_every_server_before_it_serves(
    fleet, channel, new_policy
):
    policy = new_policy()
    for server in fleet:
        server.before_loading = lambda: seen.append(serving_policy(channel).name)
    seen = []
    manager = make_user()
    deployment = deploy_policy(policy, by=manager)
    assert seen == [channel.serving.name] * 2
    for server in fleet:
        assert server.adapters == {policy.name: str(policy.adapter_path)}
        asked = [body["model"] for body in server.asked("/v1/completions")]
        assert asked == [channel.serving.name, policy.name]
    assert serving_policy(channel) == policy
    assert deployment.previous == channel.serving
    assert (deployment.by, deployment.is_rollback) == (manager, False)


def test_one_server_that_refuses_keeps_the_old_policy_everywhere(
    fleet, channel, new_policy
):
    policy = new_policy()
    fleet[1].refuse_loading = True
    with pytest.raises(DeployRefused, match="no slot"):
        deploy_policy(policy)
    assert serving_policy(channel) == channel.serving
    assert [server.adapters for server in fleet] == [{}, {}]
    assert not Deployment.objects.exists()
    policy.refresh_from_db()
    assert policy.rejected_reason == ""  # the server is to blame: it may be tried again
    fleet[1].refuse_loading = False
    deploy_policy(policy)
    assert serving_policy(channel) == policy


@pytest.mark.parametrize(
    ("fault", "value", "sentence"),
    [
        ("shifted", 0.01, "unlike the trained policy"),
        ("ignore_adapters", True, "unlike the trained policy"),
    ],
)
def test_a_canary_that_fails_on_one_server_rejects_the_policy_for_good(
    fleet, channel, new_policy, fault, value, sentence
):
    policy = new_policy()
    setattr(fleet[1], fault, value)
    with pytest.raises(AdapterRefused, match=sentence):
        deploy_policy(policy)
    assert [server.adapters for server in fleet] == [{}, {}]
    assert serving_policy(channel) == channel.serving
    policy.refresh_from_db()
    assert sentence in policy.rejected_reason
    setattr(fleet[1], fault, type(value)())
    with pytest.raises(DeployRefused, match="was rejected"):
        deploy_policy(policy)


def test_a_difference_within_the_tolerance_passes(fleet, channel, new_policy):
    """0.0009 nats on every token, 0.001 allowed."""
    fleet[0].shifted = 0.0009
    deploy_policy(policy := new_policy())
    assert serving_policy(channel) == policy


def test_an_effect_smaller_than_the_tolerance_must_show_all_the_same(
    fleet, channel, new_policy
):
    """The trainer moved log-probs by 0.0005; a server that ignores adapters by 0."""
    prompt = CANARY["prompts"][0]
    slight = prompt | {"logprobs": [-0.9995, -0.9995]}
    policy = new_policy(canary=CANARY | {"prompts": [slight]})
    fleet[0].ignore_adapters = True
    with pytest.raises(AdapterRefused, match="exactly like the base"):
        deploy_policy(policy)


def test_another_base_on_the_server_shows_in_the_canary(fleet, channel, new_policy):
    prompt = CANARY["prompts"][0] | {"base_logprobs": [-1.2, -1.0]}
    policy = new_policy(canary=CANARY | {"prompts": [prompt]})
    with pytest.raises(AdapterRefused, match="base model answers unlike"):
        deploy_policy(policy)


def test_files_that_changed_since_registering_are_refused(fleet, channel, new_policy):
    policy = new_policy()
    file = policy.adapter_path / "canary.json"
    file.chmod(0o644)
    file.write_text(file.read_text() + " ")
    with pytest.raises(AdapterRefused, match="have changed"):
        deploy_policy(policy)
    assert fleet[0].stub.requests == []


def test_files_that_are_gone_reject_the_policy(fleet, channel, new_policy):
    policy = new_policy()
    policy.adapter_path.chmod(0o755)
    (policy.adapter_path / "canary.json").unlink()
    with pytest.raises(AdapterRefused, match="files are gone: No such file") as refusal:
        deploy_policy(policy)
    assert "canary.json" in str(refusal.value)
    assert str(policy.adapter_path) not in str(refusal.value)


def test_too_many_open_files_refuse_for_now(fleet, channel, new_policy, monkeypatch):
    policy = new_policy()

    def broken(_folder):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as passing:
        passing.setattr(policies, "files_sha256", broken)
        with pytest.raises(DeployRefused, match="cannot be read now") as refusal:
            deploy_policy(policy)
    assert not isinstance(refusal.value, AdapterRefused)
    assert deploy_policy(policy).policy == policy


def test_a_disk_that_is_not_mounted_refuses_for_now(
    fleet, channel, new_policy, settings
):
    policy = new_policy()
    away = settings.POLICIES_DIR.rename(settings.DATA_DIR / "away")
    with pytest.raises(DeployRefused, match="cannot be read now"):
        deploy_policy(policy)
    away.rename(settings.POLICIES_DIR)
    assert deploy_policy(policy).policy == policy


@pytest.mark.django_db(transaction=True)
def test_a_policy_that_served_long_ago_stays_loaded_while_it_is_staged(
    fleet, channel, new_policy
):
    """The keeper looks every three seconds, also between loading and the canary."""
    old, *_newer = served = [new_policy(seed) for seed in range(1, 8)]
    for policy in served:
        deploy_policy(policy)
    long_ago = timezone.now() - GRACE - timedelta(seconds=1)
    Deployment.objects.update(at=long_ago)
    Policy.objects.update(staged_at=long_ago)
    base = channel_policies(channel)[0]
    server = fleet[0]

    def look():
        restore_adapters(client_of(server.url), base, {}, check_again=False)

    look()
    assert old.name not in server.adapters
    answer, looks = server.on_completions, []

    def answer_after_a_look(body):
        if body["model"] == old.name and not looks:
            looks.append(True)
            try:
                look()
            finally:
                connections.close_all()
        return answer(body)

    server.on_completions = answer_after_a_look
    assert deploy_policy(old).policy == old
    assert looks


def test_a_server_that_is_not_ready_refuses_for_now(fleet, channel, new_policy):
    policy = new_policy()
    Replica.objects.filter(pk=fleet[0].replica.pk).update(
        state=Replica.State.STARTING, detail="starting: 12 s"
    )
    with pytest.raises(DeployRefused, match=r"not ready \(starting: 12 s\)"):
        deploy_policy(policy)


def test_a_server_nobody_watches_is_not_ready(fleet, channel, new_policy):
    policy = new_policy()
    Replica.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    with pytest.raises(DeployRefused, match=r"not ready \(not running\)"):
        deploy_policy(policy)


def test_without_a_server_nothing_is_promoted(channel, new_policy):
    with pytest.raises(DeployRefused, match="start manage.py run_vllm"):
        deploy_policy(new_policy())


def test_a_policy_of_another_base_than_the_one_served_is_refused(
    fleet, channel, new_policy, tmp_path, settings
):
    policy = new_policy()
    settings.MODEL = str(write_base(tmp_path / "newer", seed=5))
    Replica.objects.update(base=ensure_base())
    with pytest.raises(DeployRefused, match="another base model"):
        deploy_policy(policy)


def test_deploying_what_serves_changes_nothing(fleet, channel, new_policy):
    policy = new_policy()
    first = deploy_policy(policy)
    assert deploy_policy(policy) == first
    assert Deployment.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_another_deployment_in_between_wins(fleet, channel, new_policy):
    """While the first is being checked, the second takes the pointer."""
    first, second = new_policy(1), new_policy(2)

    def overtake():
        fleet[0].before_loading = lambda: None
        Channel.objects.filter(pk=channel.pk).update(serving=second)

    fleet[0].before_loading = overtake
    with pytest.raises(DeployRefused, match="deployed meanwhile"):
        deploy_policy(first)
    assert serving_policy(channel) == second
    assert not Deployment.objects.exists()


def test_a_rollback_goes_back_and_further_back_and_then_no_further(
    fleet, channel, new_policy
):
    base = channel.serving
    first = new_policy(1)
    deploy_policy(first)
    second = new_policy(2)
    deploy_policy(second)
    loads = len(fleet[0].asked("/v1/load_lora_adapter"))
    back = rollback(channel)
    assert (back.policy, back.previous, back.is_rollback) == (first, second, True)
    assert serving_policy(channel) == first
    assert rollback(channel).policy == base
    with pytest.raises(DeployRefused, match="nothing to roll back to"):
        rollback(channel)
    assert fleet[0].adapters.keys() == {first.name, second.name}  # none was unloaded
    assert len(fleet[0].asked("/v1/load_lora_adapter")) == loads + 1


def test_a_rollback_works_while_no_server_is_up(fleet, channel, new_policy):
    policy = new_policy()
    deploy_policy(policy)
    Replica.objects.update(state=Replica.State.FAILED)
    assert rollback(channel).policy == channel.serving


def test_a_rejected_policy_is_passed_over(fleet, channel, new_policy):
    first = new_policy(1)
    deploy_policy(first)
    deploy_policy(new_policy(2))
    Policy.objects.filter(pk=first.pk).update(rejected_reason="found out later")
    assert rollback(channel).policy == channel.serving


def test_a_policy_deployed_again_does_not_lead_a_rollback_in_a_circle(
    fleet, channel, new_policy
):
    """base → b → c → b again: back to c, to b, to the base, and no further."""
    base = channel.serving
    deploy_policy(b := new_policy(1))
    deploy_policy(c := new_policy(2))
    deploy_policy(b)
    assert [rollback(channel).policy for _ in range(3)] == [c, b, base]
    with pytest.raises(DeployRefused, match="nothing to roll back to"):
        rollback(channel)
    deploy_policy(c)
    assert rollback(channel).policy == base


def test_rejected_policies_that_replaced_each_other_are_passed_over(
    fleet, channel, new_policy
):
    base = channel.serving
    first, second = new_policy(1), new_policy(2)
    for policy in (first, second, first, second):
        deploy_policy(policy)
    Policy.objects.filter(pk__in=[first.pk, second.pk]).update(rejected_reason="late")
    assert rollback(channel).policy == base
    with pytest.raises(DeployRefused, match="nothing to roll back to"):
        rollback(channel)


def test_a_base_is_deployed_to_the_channel_that_is_named(fleet, channel, new_policy):
    base = channel.serving
    deploy_policy(new_policy())
    assert deploy_policy(base, channel=channel).policy == base
    with pytest.raises(DeployRefused, match="none was given"):
        deploy_policy(base)


def test_states_and_lineage(fleet, channel, new_policy):
    base = channel.serving
    first = new_policy(1)
    deploy_policy(first)
    second = new_policy(2)
    rejected = new_policy(3)
    Policy.objects.filter(pk=rejected.pk).update(rejected_reason="bad")
    channel.refresh_from_db()
    listed = channel_policies(channel)
    assert listed == [base, first, second, rejected]
    states = [policy_state(policy, channel) for policy in listed]
    assert states == ["retired", "serving", "candidate", "rejected"]
    assert lineage(second) == [second, first, base]


def test_the_last_four_stay_loaded_and_older_ones_are_unloaded_after_the_grace(
    fleet, channel, new_policy
):
    served = []
    for seed in range(1, 8):
        served.append(new_policy(seed))
        deploy_policy(served[-1])
    channel.refresh_from_db()
    names = [policy.name for policy in served]
    assert [p.name for p in recent_policies(channel)] == names[:1:-1]
    base = channel_policies(channel)[0]
    client = client_of(fleet[0].url)
    restore_adapters(client, base, {}, check_again=False)
    assert fleet[0].adapters.keys() == set(names)  # requests may still be running
    long_ago = timezone.now() - GRACE - timedelta(seconds=1)
    Deployment.objects.update(at=long_ago)
    Policy.objects.update(staged_at=long_ago)
    restore_adapters(client, base, {}, check_again=False)
    assert fleet[0].adapters.keys() == set(names[2:])


def test_a_restarted_server_gets_back_what_served_and_keeps_candidates_alone(
    fleet, channel, new_policy
):
    first = new_policy(1)
    deploy_policy(first)
    second = new_policy(2)
    deploy_policy(second)
    candidate = new_policy(3)
    fleet[0].adapters = {candidate.name: str(candidate.adapter_path)}
    base = channel_policies(channel)[0]
    restore_adapters(client_of(fleet[0].url), base, {}, check_again=True)
    assert fleet[0].adapters.keys() == {first.name, second.name, candidate.name}


def _deploy(pk, gate, results):
    connections.close_all()
    policy = Policy.objects.get(pk=pk)
    gate.wait(30)
    try:
        deploy_policy(policy)
        results.put(pk)
    except DeployRefused as refusal:
        results.put(str(refusal))
    connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_of_two_processes_that_deploy_at_once_one_wins_or_one_follows_the_other(
    fleet, channel, new_policy
):
    """Both stage at the same moment. A deployment's `previous` is what it replaced: the
    chain of flips has no gap and ends at what serves, whoever won."""
    base = channel.serving
    one, two = new_policy(1), new_policy(2)
    connections.close_all()
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(2), fork.Queue()
    racers = [
        fork.Process(target=_deploy, args=(policy.pk, gate, results))
        for policy in (one, two)
    ]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)
    flips = list(Deployment.objects.order_by("id"))
    won = [outcome for outcome in outcomes if outcome in (one.pk, two.pk)]
    assert len(won) == len(flips) >= 1
    assert [flip.previous_id for flip in flips] == [
        base.pk,
        *(flip.policy_id for flip in flips[:-1]),
    ]
    assert serving_policy(channel).pk == flips[-1].policy_id

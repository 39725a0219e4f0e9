"""Answers sampled through the servers that are ready."""

from datetime import timedelta

import pytest
from django.utils import timezone

from inference import queries, services
from inference.base import ensure_base
from inference.errors import IdenticalAnswers, InferenceError
from inference.models import Policy, Replica
from inference.policies import register_policy
from inference.queries import readiness
from inference.sampling import SamplingParams
from inference.services import (
    count_tokens,
    create_channel,
    generate_pair,
    sample,
    servers_for,
    set_wanted,
    wait_until,
)
from tests.factories import make_server
from tests.inference.fake_vllm import FakeFleet
from tests.inference.small_files import write_adapter, write_base

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("base")]
CHAT = [{"role": "user", "content": "hi"}]
PARAMS = SamplingParams(temperature=0.8, max_tokens=9)


@pytest.fixture
def fleet(base, settings):
    fleet = FakeFleet(settings, base, count=1)
    yield fleet
    fleet.close()


def test_a_pair_comes_from_one_request_and_keeps_all_that_is_known(fleet, base):
    first, second = generate_pair(base, CHAT, PARAMS)
    (body,) = fleet[0].asked("/v1/chat/completions")
    assert (body["n"], body["model"]) == (2, base.name)
    assert (first.text, second.text) == ("yes", "no")
    assert first.policy == base
    assert (first.prompt_token_ids, first.token_ids) == ([1, 2, 3], [10, 2])
    assert first.logprobs == [-0.5, -0.25]
    assert first.finish_reason == "stop"
    assert first.sampling == PARAMS.as_dict()
    assert (first.seed, second.seed) == (body["seed"], body["seed"] + 1)


def test_each_request_has_a_random_seed_of_62_bits(fleet, base):
    for _ in range(3):
        generate_pair(base, CHAT, PARAMS)
    seeds = {body["seed"] for body in fleet[0].asked("/v1/chat/completions")}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_seeds_can_be_turned_off(fleet, base, settings):
    settings.SAMPLING_SEEDS = False
    (answer,) = sample(base, CHAT, 1, PARAMS)
    assert answer.seed is None
    assert "seed" not in fleet[0].asked("/v1/chat/completions")[0]


def test_identical_answers_are_sampled_again_with_other_seeds(fleet, base):
    fleet[0].texts = ["same", " same\n"]

    def differ_at_the_third(body, original=fleet[0].on_chat):
        if len(fleet[0].asked("/v1/chat/completions")) == 3:
            fleet[0].texts = ["one", "other"]
        return original(body)

    fleet[0].on_chat = differ_at_the_third
    first, second = generate_pair(base, CHAT, PARAMS)
    assert (first.text, second.text) == ("one", "other")
    seeds = {body["seed"] for body in fleet[0].asked("/v1/chat/completions")}
    assert len(seeds) == 3


def test_answers_that_stay_identical_are_kept_out(fleet, base):
    fleet[0].texts = ["same", "same"]
    with pytest.raises(IdenticalAnswers, match="8 times"):
        generate_pair(base, CHAT, PARAMS)
    assert len(fleet[0].asked("/v1/chat/completions")) == 4


def test_temperature_0_cannot_make_a_pair(fleet, base):
    with pytest.raises(InferenceError, match="temperature 0") as refused:
        generate_pair(base, CHAT, SamplingParams(temperature=0))
    assert refused.value.permanent


def test_an_adapter_that_a_server_has_forgotten_is_loaded_and_asked(
    fleet, base, tmp_path
):
    channel = create_channel("demo")
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(channel, base, folder)
    assert fleet[0].adapters == {}
    generate_pair(policy, CHAT, PARAMS)
    assert fleet[0].adapters == {policy.name: str(policy.adapter_path)}


def test_a_forgotten_adapter_that_fails_its_canary_never_answers(fleet, base, tmp_path):
    channel = create_channel("demo")
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(channel, base, folder)
    fleet[0].shifted = 1.0
    with pytest.raises(InferenceError, match="unlike the trained") as refused:
        generate_pair(policy, CHAT, PARAMS)
    assert refused.value.permanent
    assert fleet[0].adapters == {}


def test_a_rejected_policy_is_never_asked(fleet, base, tmp_path):
    channel = create_channel("demo")
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(channel, base, folder)
    Policy.objects.filter(pk=policy.pk).update(rejected_reason="bad canary")
    policy.refresh_from_db()
    with pytest.raises(InferenceError, match="bad canary"):
        sample(policy, CHAT, 1, PARAMS)
    assert fleet[0].stub.requests == []


def test_a_server_that_cannot_be_given_a_policy_back_is_not_asked_for_it(
    base, settings, tmp_path
):
    fleet = FakeFleet(settings, base, count=2)
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(create_channel("demo"), base, folder)
    first, second = (Replica.objects.get(url=server.url) for server in fleet)
    Replica.objects.filter(pk=first.pk).update(refused={policy.name: "Its files …"})
    assert servers_for(policy) == [second]
    assert set(servers_for(base)) == {first, second}
    Replica.objects.update(refused={policy.name: "Its files are gone: x"})
    refusal = f"{policy.name} could not be restored: Its files are gone: x"
    with pytest.raises(InferenceError, match=refusal) as error:
        generate_pair(policy, CHAT, PARAMS)
    assert error.value.permanent
    generate_pair(base, CHAT, PARAMS)
    fleet.close()


def test_a_policy_of_another_base_says_so(fleet, base, tmp_path, settings):
    settings.MODEL = str(write_base(tmp_path / "newer", seed=3))
    newer = ensure_base()
    with pytest.raises(InferenceError, match="another base model") as refused:
        sample(newer, CHAT, 1, PARAMS)
    assert refused.value.permanent


def test_another_server_answers_when_one_is_gone(base, settings, monkeypatch):
    fleet = FakeFleet(settings, base, count=2)
    monkeypatch.setattr(services.random, "shuffle", lambda servers: None)
    monkeypatch.setattr("inference.vllm.time.sleep", lambda seconds: None)
    try:
        first = Replica.objects.get(url=min(server.url for server in fleet))
        (gone,) = [server for server in fleet if server.url == first.url]
        gone.stub.close()
        assert len(sample(base, CHAT, 1, PARAMS)) == 1
    finally:
        fleet.close()


def test_without_a_ready_server_the_reason_is_given(fleet, base):
    Replica.objects.update(state=Replica.State.STARTING, detail="starting: 12 s")
    with pytest.raises(InferenceError, match="starting: 12 s") as refused:
        sample(base, CHAT, 1, PARAMS)
    assert not refused.value.permanent


def test_without_any_server_the_command_is_named(base, settings):
    with pytest.raises(InferenceError, match="run_vllm"):
        sample(base, CHAT, 1, PARAMS)


def test_tokens_are_counted_by_the_server(fleet):
    assert count_tokens(CHAT) == 3


def test_readiness_names_neither_address_nor_policy(fleet, base):
    assert readiness() == [("vllm", True, "ready")]
    Replica.objects.update(
        state=Replica.State.FAILED, detail=f"{base.name} {fleet[0].url}"
    )
    assert readiness() == [("vllm", False, "failed")]
    Replica.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    assert readiness() == [("vllm", False, "not running")]


def test_a_rendering_that_differs_is_not_ready(fleet):
    Replica.objects.update(warning="vLLM and the trainer render a chat differently")
    names = {name: ok for name, ok, _detail in readiness()}
    assert names == {"vllm": True, "vllm-rendering": False}


def test_only_a_server_that_is_ours_is_told_to_stop(fleet):
    Replica.objects.update(is_managed=False)
    set_wanted("stopped", "round 3 trains")
    assert Replica.objects.get().wanted == "running"
    wait_until("stopped", 0)  # nothing of ours runs
    Replica.objects.update(is_managed=True)
    set_wanted("stopped", "round 3 trains")
    replica = Replica.objects.get()
    assert (replica.wanted, replica.wanted_reason) == ("stopped", "round 3 trains")


def test_waiting_ends_with_what_the_server_was_doing(fleet):
    wait_until("ready", 0)
    Replica.objects.update(detail="finishing its answers")
    with pytest.raises(InferenceError, match="finishing its answers"):
        wait_until("stopped", 0)


def test_a_server_that_nobody_runs_counts_as_stopped(fleet):
    Replica.objects.update(heartbeat_at=timezone.now() - timedelta(minutes=1))
    wait_until("stopped", 0)
    with pytest.raises(InferenceError):
        wait_until("ready", 0)


def test_each_ready_server_is_asked_for_as_many_pairs_as_keep_it_busy(
    base, settings, monkeypatch
):
    monkeypatch.setattr(queries, "has_cpu_build", lambda: True)
    assert queries.pairs_at_once() == 16  # none is ready: for when one is
    make_server(base=base)
    assert queries.pairs_at_once() == 16
    monkeypatch.setattr(queries, "has_cpu_build", lambda: False)
    assert queries.pairs_at_once() == 64

    # What somebody else's run on isn't known here.
    monkeypatch.setattr(queries, "has_cpu_build", lambda: True)
    settings.VLLM_URLS = ["http://one", "http://two", "http://three"]
    for url in settings.VLLM_URLS[:2]:
        make_server(base=base, url=url)
    make_server(base=base, url="http://three", state=Replica.State.STARTING)
    assert queries.pairs_at_once() == 2 * 64
    settings.SAMPLING_PAIRS = 5
    assert queries.pairs_at_once() == 2 * 5


def test_servers_that_are_given_are_not_looked_up(
    fleet, base, django_assert_num_queries
):
    servers = servers_for(base)
    with django_assert_num_queries(0):
        generate_pair(base, CHAT, PARAMS, servers)

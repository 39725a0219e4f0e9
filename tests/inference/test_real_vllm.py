"""run_vllm, sampling and promotion against the real vLLM on a tiny random model."""

import json
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.db import connections

from inference import priority
from inference.errors import AdapterRefused
from inference.models import Policy, Replica
from inference.policies import deploy_policy, register_policy, rollback
from inference.queries import readiness, serving_policy, why_refused
from inference.replicas import client_of
from inference.sampling import SamplingParams
from inference.services import (
    count_tokens,
    create_channel,
    generate_pair,
    sample,
    set_wanted,
    wait_until,
)
from tests.vllm_server import alive, command_of, make_adapter
from tests.waiting import wait_for

CHAT = [{"role": "user", "content": "Name three rivers. 三条河？"}]
SHORT = SamplingParams(max_tokens=12)


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    """Two rounds' results."""
    folder = tmp_path_factory.mktemp("rounds")
    for number in (1, 2):
        make_adapter(folder / str(number), tiny_model, seed=number)
    return folder


def logprobs_of(model_folder, adapter, prompt_ids, answer_ids):
    """What transformers says of the answer, in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    ids = torch.tensor([prompt_ids + answer_ids])
    with torch.no_grad():
        scores = model(ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
    return scores.gather(1, ids[0, len(prompt_ids) :, None])[:, 0].tolist()


def loaded(vllm):
    return set(client_of(vllm.url).models())


@contextmanager
def always_sampling(client, name):
    """Answers of one policy flow without a gap; yields once they do.

    Two askers, each asking anew when its answer ends, half an answer apart, so that no
    single answer has to last until the other work comes by.
    """
    long = {"temperature": 1.0, "max_tokens": 1000, "ignore_eos": True}
    done = threading.Event()

    def keep_asking(delay):
        done.wait(delay)
        lengths = []
        while not done.is_set():
            answer = client.chat(name, CHAT, 2, 1, long)
            lengths += [len(choice.token_ids) for choice in answer.choices]
        return lengths

    before = client.metrics()["generation_tokens_total"]
    with ThreadPoolExecutor(2) as pool:
        askers = [pool.submit(keep_asking, delay) for delay in (0, 0.5)]

        def sampling():
            for asker in askers:
                assert not asker.done(), asker.exception()
            return client.metrics()["generation_tokens_total"] > before

        try:
            wait_for("it to sample", sampling, 30)
            yield
        finally:
            done.set()
        for asker in askers:
            assert set(asker.result()) <= {1000}


def beside_answers(client, name, ids):
    """The log-probs of `ids`, five times over while answers are sampled."""
    before = client.metrics()["generation_tokens_total"]
    runs = [client.prompt_logprobs(name, ids) for _ in range(5)]
    assert client.metrics()["generation_tokens_total"] > before
    return runs


def test_a_pair_comes_with_the_ids_and_logprobs_that_transformers_computes(
    vllm, tiny_model
):
    base = create_channel("demo").serving
    first, second = generate_pair(base, CHAT, SHORT)
    assert first.text != second.text
    assert first.prompt_token_ids == second.prompt_token_ids
    assert len(first.prompt_token_ids) == count_tokens(CHAT)
    for answer in (first, second):
        assert 1 <= len(answer.token_ids) == len(answer.logprobs) <= 12
        expected = logprobs_of(
            tiny_model, None, answer.prompt_token_ids, answer.token_ids
        )
        assert answer.logprobs == pytest.approx(expected, abs=1e-3)


def test_the_stored_seed_gives_the_same_answer_again(vllm, monkeypatch):
    base = create_channel("demo").serving
    _first, second = generate_pair(base, CHAT, SHORT)
    monkeypatch.setattr("secrets.randbits", lambda bits: second.seed)
    (again,) = sample(base, CHAT, 1, SHORT)
    assert again.token_ids == second.token_ids


def test_ready_says_so_without_a_warning_about_the_chat_template(vllm):
    assert readiness() == [("vllm", True, "ready")]
    assert Replica.objects.get().warning == ""


def test_a_trained_adapter_is_checked_served_and_rolled_back(vllm, runs, tiny_model):
    channel = create_channel("demo")
    base = channel.serving
    policy = register_policy(channel, base, runs / "1" / "adapter")
    deploy_policy(policy)
    channel.refresh_from_db()
    assert channel.serving == policy
    answer, _other = generate_pair(policy, CHAT, SHORT)
    adapter = policy.adapter_path
    expected = logprobs_of(
        tiny_model, adapter, answer.prompt_token_ids, answer.token_ids
    )
    unadapted = logprobs_of(tiny_model, None, answer.prompt_token_ids, answer.token_ids)
    assert answer.logprobs == pytest.approx(expected, abs=1e-3)
    assert answer.logprobs != pytest.approx(unadapted, abs=1e-2)
    rollback(channel)
    channel.refresh_from_db()
    assert channel.serving == base
    assert policy.name in loaded(vllm)  # kept, so that going forward again is instant


def test_a_canary_that_does_not_match_refuses_and_unloads(vllm, runs, tmp_path):
    """The second round's weights with the first round's canary."""
    channel = create_channel("demo")
    base = channel.serving
    shutil.copytree(runs / "2" / "adapter", tmp_path / "adapter")
    shutil.copy(runs / "1" / "canary.json", tmp_path)
    policy = register_policy(channel, base, tmp_path / "adapter")
    with pytest.raises(AdapterRefused, match="unlike the trained policy"):
        deploy_policy(policy)
    channel.refresh_from_db()
    policy.refresh_from_db()
    assert channel.serving == base
    assert "unlike the trained policy" in policy.rejected_reason
    assert policy.name not in loaded(vllm)


def test_an_adapter_without_effect_is_refused(vllm, tiny_model, runs, tmp_path):
    """All B are zero, and the canary says (wrongly, within tolerance) that it moved."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(runs / "1" / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({k: np.zeros_like(v) for k, v in load_file(file).items()}, file)
    canary = json.loads((runs / "1" / "canary.json").read_text())
    for prompt in canary["prompts"]:
        prompt["logprobs"] = [value + 5e-4 for value in prompt["base_logprobs"]]
    (tmp_path / "canary.json").write_text(json.dumps(canary))
    channel = create_channel("demo")
    policy = register_policy(channel, channel.serving, tmp_path / "adapter")
    with pytest.raises(AdapterRefused, match="exactly like the base"):
        deploy_policy(policy)


def test_an_adapter_whose_answers_are_no_numbers_is_refused(vllm, runs, tmp_path):
    """Its weights are finite, but what they make of an answer is not: vLLM's cache keeps
    that, and the base and every policy would answer with it."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(runs / "1" / "adapter", tmp_path / "adapter")
    shutil.copy(runs / "1" / "canary.json", tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({k: np.full_like(v, 1e38) for k, v in load_file(file).items()}, file)
    channel = create_channel("demo")
    policy = register_policy(channel, channel.serving, tmp_path / "adapter")
    ids = list(range(5, 25))
    before = client_of(vllm.url).prompt_logprobs(channel.serving.name, ids)
    with pytest.raises(AdapterRefused, match="its weights are damaged"):
        deploy_policy(policy)
    assert policy.name not in loaded(vllm)
    after = client_of(vllm.url).prompt_logprobs(channel.serving.name, ids)
    assert after == pytest.approx(before, abs=1e-4)


def test_no_pair_fails_while_policies_are_promoted_and_rolled_back(vllm, runs):
    channel = create_channel("demo")
    base = channel.serving
    first = register_policy(channel, base, runs / "1" / "adapter")
    second = register_policy(channel, first, runs / "2" / "adapter")
    done = threading.Event()

    def keep_sampling():
        seen = []
        try:
            while not done.is_set():
                pair = generate_pair(serving_policy(channel), CHAT, SHORT)
                assert pair[0].policy == pair[1].policy
                seen.append(pair[0].policy)
            return seen
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        samplers = [pool.submit(keep_sampling) for _ in range(4)]
        try:
            deploy_policy(first)
            deploy_policy(second)
            rollback(channel)
            rollback(channel)
        finally:
            done.set()
        seen = [policy for sampler in samplers for policy in sampler.result()]
    assert set(seen) <= {base, first, second}
    assert base in seen
    assert serving_policy(channel) == base


def test_vllm_killed_with_9_comes_back_with_its_adapters(vllm, runs):
    """But for one of another channel whose files are gone, until they are there again."""
    channel = create_channel("demo")
    base = channel.serving
    first = register_policy(channel, base, runs / "1" / "adapter")
    second = register_policy(channel, first, runs / "2" / "adapter")
    deploy_policy(first)
    deploy_policy(second)
    lost = register_policy(create_channel("other"), base, runs / "1" / "adapter")
    deploy_policy(lost)
    elsewhere = lost.adapter_path.with_name("elsewhere")
    lost.adapter_path.rename(elsewhere)
    before = vllm.engine()
    os.kill(before[0].pid, signal.SIGKILL)
    wait_for("its engine and worker to die with it", lambda: not alive(before), 10)
    wait_for(
        "it to be noticed",
        lambda: Replica.objects.get().state != Replica.State.READY,
        10,
    )
    vllm.wait_until_ready()
    assert {base.name, first.name, second.name} <= loaded(vllm)
    assert lost.name not in loaded(vllm)
    assert "Its files are gone" in why_refused(lost)
    generate_pair(Policy.objects.get(pk=second.pk), CHAT, SHORT)
    elsewhere.rename(lost.adapter_path)
    wait_for("its files to be taken up again", lambda: not why_refused(lost), 20)
    generate_pair(lost, CHAT, SHORT)
    assert "vLLM died (signal 9); starting it again" in vllm.log.read_text()


def test_the_base_answers_as_the_base_beside_answers_of_adapters(vllm, runs, tmp_path):
    """Four adapters fill all slots; the last must not leak into rows of the base."""
    client = client_of(vllm.url)
    base = create_channel("demo").serving
    for number in range(4):
        path = tmp_path / str(number)
        shutil.copytree(runs / str(1 + number % 2) / "adapter", path)
        name = f"slot-{number}"
        client.load_adapter(name, str(path))
        client.prompt_logprobs(name, [5, 6])  # an adapter takes its slot when asked
    ids = list(range(5, 25))
    alone = client.prompt_logprobs(base.name, ids)
    with always_sampling(client, name):
        runs = beside_answers(client, base.name, ids)
    assert all(beside == pytest.approx(alone, abs=1e-4) for beside in runs)


def test_a_canary_that_meets_other_answers_does_no_harm(vllm, runs):
    """Prompt log-probs of an adapter, in a batch with answers of the same adapter."""
    channel = create_channel("demo")
    policy = register_policy(channel, channel.serving, runs / "1/adapter")
    client = client_of(vllm.url)
    client.load_adapter(policy.name, str(policy.adapter_path))
    ids = list(range(5, 25))
    alone = client.prompt_logprobs(policy.name, ids)
    with always_sampling(client, policy.name):
        runs = beside_answers(client, policy.name, ids)
    assert all(beside == pytest.approx(alone, abs=1e-4) for beside in runs)


def test_stopped_on_demand_it_finishes_its_answers_and_leaves_nothing(vllm):
    base = create_channel("demo").serving
    family = vllm.family()
    assert vllm.sockets()
    client = client_of(vllm.url)
    with ThreadPoolExecutor(1) as pool:
        long = {"temperature": 1.0, "max_tokens": 300, "ignore_eos": True}
        before = client.metrics()["prompt_tokens_total"]
        answer = pool.submit(client.chat, base.name, CHAT, 32, 1, long)
        wait_for(
            "vLLM to work on it",
            lambda: answer.done() or client.metrics()["prompt_tokens_total"] > before,
            30,
        )
        set_wanted("stopped", "a round needs the memory")
        wait_until("stopped", 90)
        lengths = [len(choice.token_ids) for choice in answer.result().choices]
    assert lengths == [300] * 32
    wait_for("run_vllm to be left alone", lambda: alive(family) == family[:1], 10)
    assert not vllm.sockets()
    replica = Replica.objects.get()
    assert (replica.state, replica.detail) == ("stopped", "a round needs the memory")
    set_wanted("running")


def test_run_vllm_killed_with_9_leaves_no_process(vllm_session, transactional_db):
    """With vLLM's three processes there, though it is still starting."""
    vllm_session.start()
    family = vllm_session.wait_for_engine()
    (server,) = [
        one for one in family[0].children() if "vllm_process" in command_of(one)
    ]
    beneath = server.children(recursive=True)
    assert {one.nice() for one in [server, *beneath]} == {priority.VLLM}
    assert len(family) >= 4
    os.kill(vllm_session.process.pid, signal.SIGKILL)
    vllm_session.process.wait()
    wait_for("vLLM to die with run_vllm", lambda: not alive(family), 10)


def test_run_vllm_ends_cleanly_on_sigterm(vllm_session, transactional_db):
    """While vLLM starts; once it serves, the session's end is such a test."""
    vllm_session.start()
    wait_for("vLLM to start", vllm_session.engine, 60)
    family = vllm_session.family()
    os.kill(vllm_session.process.pid, signal.SIGTERM)
    assert vllm_session.process.wait(60) == 0
    wait_for("nothing to be left", lambda: not alive(family), 10)
    replica = Replica.objects.get(url=vllm_session.url)
    assert replica.state == Replica.State.STOPPED

"""What served is given back to vLLM, or refused for a reason of its own."""

import os

import pytest

from inference.policies import deploy_policy, register_policy, rollback
from inference.services import create_channel
from tests.inference.conftest import FakeProcess
from tests.inference.small_files import write_adapter

pytestmark = pytest.mark.django_db


def test_what_served_is_loaded_again_after_a_death(look, fake, base, tmp_path):
    fake.is_up = True
    look()
    assert look().state == "ready"
    channel = create_channel("demo")
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(channel, base, folder)
    deploy_policy(policy)
    fake.adapters.clear()
    FakeProcess.started[0].status = -9
    fake.is_up = False
    look()
    look()
    assert look().state == "starting"
    fake.is_up = True
    assert look().state == "ready"
    assert fake.adapters == {policy.name: str(policy.adapter_path)}


@pytest.fixture
def served(look, fake, base, tmp_path):
    """A policy that serves, on a server that has just forgotten it."""
    fake.is_up = True
    look(), look()
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(create_channel("demo"), base, folder)
    deploy_policy(policy)
    fake.adapters.clear()
    return policy


def test_a_serving_policy_that_fails_its_canary_is_left_out_and_blocks_nobody(
    look, fake, served
):
    fake.shifted = 1.0
    row = look()
    assert (row.state, row.refused.keys()) == ("ready", {served.name})
    assert row.refused[served.name].startswith("The server answers unlike the trained")
    assert not fake.adapters
    asked = len(fake.asked("/v1/load_lora_adapter"))
    fake.shifted = 0.0
    look()  # It would answer unchecked while it is checked, so nobody tries in vain.
    assert len(fake.asked("/v1/load_lora_adapter")) == asked
    canary = served.adapter_path / "canary.json"
    os.utime(canary, ns=(0, 0))
    assert look().refused == {}
    assert fake.adapters.keys() == {served.name}


def test_a_serving_policy_of_damaged_weights_is_left_out_and_blocks_nobody(
    look, fake, served
):
    fake.numberless = True
    row = look()
    assert (row.state, row.refused.keys()) == ("ready", {served.name})
    assert "its weights are damaged" in row.refused[served.name]
    assert not fake.adapters


def test_a_serving_policy_whose_files_are_gone_comes_back_with_them(look, fake, served):
    folder = served.adapter_path
    folder.rename(folder.with_name("elsewhere"))
    row = look()
    assert row.state == "ready"
    gone = f"No such file or directory: policies/{served.name}/adapter_config.json"
    assert row.refused == {served.name: f"Its files are gone: {gone}"}
    assert not fake.asked("/v1/load_lora_adapter")[1:]
    folder.with_name("elsewhere").rename(folder)
    assert look().refused == {}
    assert fake.adapters.keys() == {served.name}


def test_what_is_refused_is_rolled_back_from(look, fake, served):
    fake.shifted = 1.0
    look()
    rollback(create_channel("demo"))
    assert look().refused == {}


def test_it_is_not_ready_while_it_cannot_load_what_serves(look, fake, served):
    fake.refuse_loading = True
    row = look()
    assert row.state == "starting"
    refusal = f"{served.name} could not be restored: vLLM answered 500: no slot"
    assert (row.detail, row.refused) == (refusal, {})
    fake.refuse_loading = False
    assert look().state == "ready"

"""Registering: what an adapter must be, and that a policy is made once and for all."""

import multiprocessing
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from django.db import IntegrityError, transaction

from inference.errors import AdapterRefused
from inference.models import Policy
from inference.policies import register_policy
from inference.services import create_channel
from tests.factories import make_policy
from tests.inference.small_files import CANARY, UP, Q, write_adapter, write_base

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]
A = f"base_model.model.{Q}.lora_A.weight"
B = f"base_model.model.{UP}.lora_B.weight"


@pytest.fixture(autouse=True)
def base(base, settings):
    settings.VLLM_MAX_LORA_RANK = 8
    return base


@pytest.fixture
def channel(base):
    return create_channel("demo")


def adapter(tmp_path, **changes):
    return write_adapter(tmp_path / "run" / "adapter", tmp_path / "base", **changes)


def refused(channel, folder):
    with pytest.raises(AdapterRefused) as refusal:
        register_policy(channel, channel.serving, folder)
    assert Policy.objects.filter(number__gt=0).count() == 0
    left = [p for p in channel_folder(channel) if not p.name.startswith(".")]
    assert left == []
    return str(refusal.value)


def channel_folder(channel):
    from django.conf import settings

    return settings.POLICIES_DIR.iterdir()


def test_a_sound_adapter_becomes_a_candidate_with_a_name_of_number_and_hash(
    channel, tmp_path, base
):
    policy = register_policy(channel, base, adapter(tmp_path))
    assert policy.name == f"policy-0001-{policy.adapter_sha256[:8]}"
    assert (policy.rank, policy.parent, policy.channel) == (2, base, channel)
    assert policy.base_sha256 == base.base_sha256
    assert sorted(f.name for f in policy.adapter_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "canary.json",
    ]
    channel.refresh_from_db()
    assert channel.serving == base


def test_its_files_cannot_be_written(channel, tmp_path, base):
    policy = register_policy(channel, base, adapter(tmp_path))
    paths = [policy.adapter_path, *policy.adapter_path.iterdir()]
    assert all(not stat.S_IMODE(p.stat().st_mode) & 0o222 for p in paths)


def test_the_same_files_give_the_same_policy(channel, tmp_path, base):
    folder = adapter(tmp_path)
    first = register_policy(channel, base, folder)
    assert register_policy(channel, base, folder) == first
    assert Policy.objects.filter(number__gt=0).count() == 1


def test_other_files_get_the_next_number(channel, tmp_path, base):
    first = register_policy(channel, base, adapter(tmp_path))
    other = write_adapter(tmp_path / "run2" / "adapter", tmp_path / "base", seed=2)
    second = register_policy(channel, first, other)
    assert (first.number, second.number) == (1, 2)
    assert second.parent == first


def test_the_canary_may_lie_beside_the_adapter_where_the_trainer_leaves_it(
    channel, tmp_path, base
):
    folder = adapter(tmp_path)
    (folder / "canary.json").rename(folder.parent / "canary.json")
    policy = register_policy(channel, base, folder)
    assert (policy.adapter_path / "canary.json").is_file()


def test_a_folder_left_by_a_crash_before_the_commit_is_taken_over(
    channel, tmp_path, base
):
    policy = register_policy(channel, base, adapter(tmp_path))
    path = policy.adapter_path
    policy.delete()
    path.chmod(0o700)  # As it was made, if the crash came right after the rename.
    assert (
        register_policy(channel, base, tmp_path / "run" / "adapter").name == path.name
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o555


def test_the_database_refuses_the_same_files_twice_in_a_channel(channel, base):
    policy = make_policy(channel=channel, number=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_policy(channel=channel, number=2, adapter_sha256=policy.adapter_sha256)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "canary.json"]
)
def test_a_missing_file_is_named(channel, tmp_path, name):
    folder = adapter(tmp_path)
    (folder / name).unlink()
    assert name in refused(channel, folder)


def test_no_folder_at_all_is_a_sentence(channel, tmp_path):
    assert "left no adapter" in refused(channel, tmp_path / "nowhere")


def test_a_link_to_a_file_elsewhere_is_not_followed(channel, tmp_path):
    folder = adapter(tmp_path)
    outside = tmp_path / "outside.safetensors"
    (folder / "adapter_model.safetensors").rename(outside)
    (folder / "adapter_model.safetensors").symlink_to(outside)
    assert "adapter_model.safetensors is missing" in refused(channel, folder)


def test_a_pickle_is_refused_even_beside_safetensors(channel, tmp_path):
    folder = adapter(tmp_path)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "pickle" in refused(channel, folder)


def test_an_adapter_of_another_base_is_refused(channel, tmp_path):
    other = write_base(tmp_path / "other", seed=9)
    folder = write_adapter(tmp_path / "run" / "adapter", other)
    assert "another base model" in refused(channel, folder)


def test_the_same_base_in_another_folder_is_the_same_base(channel, tmp_path, base):
    copy = write_base(tmp_path / "copy")
    folder = write_adapter(tmp_path / "run" / "adapter", copy)
    assert register_policy(channel, base, folder).number == 1


def test_a_rank_above_what_vllm_was_started_for_is_refused(channel, tmp_path):
    assert "at most 8" in refused(channel, adapter(tmp_path, rank=9))


def test_a_rank_that_disagrees_with_the_tensors_is_refused(channel, tmp_path):
    message = refused(channel, adapter(tmp_path, r=3))
    assert "has shape (2, 4); this base needs (3, 4)" in message


def test_a_tensor_of_half_the_width_is_refused(channel, tmp_path):
    half = {A: np.ones((2, 2), dtype=np.float32)}
    message = refused(channel, adapter(tmp_path, tensors=half))
    assert f"{A} has shape (2, 2); this base needs (2, 4)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(channel, tmp_path, value):
    broken = np.ones((6, 2), dtype=np.float32)
    broken[3, 1] = value
    message = refused(channel, adapter(tmp_path, tensors={B: broken}))
    assert f"{B} holds values that are not finite" in message


def test_another_dtype_than_float32_is_refused(channel, tmp_path):
    half = {A: np.ones((2, 4), dtype=np.float16)}
    assert "F16" in refused(channel, adapter(tmp_path, tensors=half))


def test_half_of_a_module_is_refused(channel, tmp_path):
    assert f"{UP} has only half" in refused(
        channel, adapter(tmp_path, tensors={B: None})
    )


def test_a_target_without_tensors_is_refused(channel, tmp_path):
    gone = {f"base_model.model.{UP}.lora_{part}.weight": None for part in "AB"}
    message = refused(channel, adapter(tmp_path, tensors=gone))
    assert f"The adapter of {UP} is missing" in message


def test_a_module_the_base_lacks_is_refused(channel, tmp_path):
    extra = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    message = refused(
        channel, adapter(tmp_path, tensors={extra: np.ones((2, 4), np.float32)})
    )
    assert "no such module" in message


def test_a_module_outside_the_blocks_is_refused(channel, tmp_path):
    """vLLM is started for the layers of the blocks only; here it is the final norm."""
    extra = "base_model.model.model.norm.lora_A.weight"
    message = refused(
        channel, adapter(tmp_path, tensors={extra: np.ones((2, 4), np.float32)})
    )
    assert "model.norm is no layer that vLLM adapts here (q_proj, up_proj)" in message


def test_a_tensor_that_is_no_lora_is_refused(channel, tmp_path):
    extra = {f"base_model.model.{Q}.weight": np.ones((4, 4), np.float32)}
    assert "no part of a LoRA" in refused(channel, adapter(tmp_path, tensors=extra))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("bias", "all"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_by_name(channel, tmp_path, field, value):
    assert field in refused(channel, adapter(tmp_path, **{field: value}))


def test_another_kind_of_adapter_is_refused(channel, tmp_path):
    assert "not a LoRA" in refused(channel, adapter(tmp_path, peft_type="IA3"))


@pytest.mark.parametrize("keep", [0, 7, 60, 200])
def test_a_cut_off_file_is_refused(channel, tmp_path, keep):
    folder = adapter(tmp_path)
    os.truncate(folder / "adapter_model.safetensors", keep)
    assert "cannot be read" in refused(channel, folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"dtype": "float32"}'])
def test_a_broken_config_is_refused(channel, tmp_path, text):
    folder = adapter(tmp_path)
    (folder / "adapter_config.json").write_text(text)
    refused(channel, folder)


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": []},
        {"tolerance": None},
        {"prompts": [{"token_ids": [1, 2], "logprobs": [], "base_logprobs": []}]},
        {"prompts": [{"token_ids": [1], "logprobs": [], "base_logprobs": []}]},
        {"prompts": "abc"},
    ],
)
def test_a_broken_canary_is_refused(channel, tmp_path, change):
    assert "canary.json" in refused(channel, adapter(tmp_path, canary=CANARY | change))


def _register(tmp_path, number, gate):
    from django.db import connections

    connections.close_all()
    from inference.models import Channel

    folder = write_adapter(
        tmp_path / f"run{number}" / "adapter", tmp_path / "base", seed=number
    )
    channel = Channel.objects.get(slug="demo")
    gate.wait(30)
    register_policy(channel, channel.serving, folder)
    connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_processes_that_register_at_once_get_a_number_each(channel, tmp_path):
    from django.db import connections

    connections.close_all()
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(4)
    racers = [
        fork.Process(target=_register, args=(tmp_path, number, gate))
        for number in (1, 2, 3, 4)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * 4
    policies = Policy.objects.filter(number__gt=0)
    assert [policy.number for policy in policies] == [1, 2, 3, 4]
    assert all(policy.adapter_path.is_dir() for policy in policies)


def test_anothers_staging_folder_that_goes_away_meanwhile_is_no_fault(
    channel, tmp_path, monkeypatch
):
    """Two rounds that publish at once sweep each other's leftovers."""
    real = Path.glob

    def glob(self, pattern):
        yield from real(self, pattern)
        if pattern.startswith(".staging-"):
            yield self / ".staging-just-removed"

    monkeypatch.setattr(Path, "glob", glob)
    assert register_policy(channel, channel.serving, adapter(tmp_path)).number == 1

"""Policy 0: found, named by its files, and explained when it is missing."""

import json
import os

import pytest
from django.core.management import CommandError, call_command
from huggingface_hub.errors import LocalEntryNotFoundError

from inference import base as base_module
from inference.base import base_folder, ensure_base
from inference.errors import InferenceError
from inference.models import Policy
from tests.inference.small_files import write_base

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _data(settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.MODELS_DIR = settings.DATA_DIR / "models"


def test_it_is_named_by_the_hash_of_config_and_weights(settings, tmp_path):
    settings.MODEL = str(write_base(tmp_path / "one"))
    one = ensure_base()
    assert one.name == f"policy-0000-{one.base_sha256[:8]}"
    assert one.is_base and one.adapter_path is None
    settings.MODEL = str(write_base(tmp_path / "two", seed=2))
    two = ensure_base()
    assert two.base_sha256 != one.base_sha256
    (tmp_path / "two" / "config.json").write_text("{}")
    assert ensure_base().name not in (one.name, two.name)


def test_the_same_files_elsewhere_are_the_same_policy_in_its_new_place(
    settings, tmp_path
):
    settings.MODEL = str(write_base(tmp_path / "one"))
    one = ensure_base()
    (tmp_path / "one").rename(tmp_path / "moved")
    settings.MODEL = str(tmp_path / "moved")
    assert ensure_base() == one
    assert Policy.objects.get().base_model == str(tmp_path / "moved")


def test_weights_are_hashed_once_and_again_when_they_change(
    settings, tmp_path, monkeypatch
):
    folder = write_base(tmp_path / "one")
    settings.MODEL = str(folder)
    hashed = []
    original = base_module.sha256_of
    monkeypatch.setattr(
        base_module, "sha256_of", lambda f: hashed.append(f.name) or original(f)
    )
    first = ensure_base()
    assert hashed == ["config.json", "model.safetensors"]
    ensure_base()
    assert len(hashed) == 2
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, (1, 1))
    assert ensure_base() != first


def test_without_a_model_the_command_that_builds_one_is_named(settings):
    settings.MODEL = ""
    with pytest.raises(InferenceError, match="build_starter_model") as refused:
        ensure_base()
    assert refused.value.permanent


def test_the_starter_model_is_used_when_no_model_is_set(settings):
    settings.MODEL = ""
    write_base(settings.MODELS_DIR / "starter")
    assert base_folder() == (settings.MODELS_DIR / "starter").resolve()


def test_a_folder_without_a_model_is_named(settings, tmp_path):
    settings.MODEL = str(tmp_path)
    with pytest.raises(InferenceError, match="holds no config.json"):
        ensure_base()


def test_pickled_weights_are_not_read(settings, tmp_path):
    folder = write_base(tmp_path / "one")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    settings.MODEL = str(folder)
    with pytest.raises(InferenceError, match="no safetensors"):
        ensure_base()


@pytest.mark.parametrize("model", ["nonsense", "a/b/c", "../nowhere/at/all"])
def test_what_is_neither_folder_nor_hub_id_is_said(settings, model):
    settings.MODEL = model
    with pytest.raises(InferenceError, match="neither a folder here nor a hub id"):
        ensure_base()


def test_a_hub_id_without_a_network_is_a_sentence(settings, monkeypatch):
    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("Cannot find the requested files")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    settings.MODEL = "somebody/some-model"
    with pytest.raises(CommandError, match="could not be fetched.*network"):
        call_command("fetch_model")


def test_a_request_never_fetches_a_model(settings, monkeypatch):
    asked = []

    def nothing_here(hub_id, **options):
        asked.append(options)
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing_here)
    settings.MODEL = "somebody/some-model"
    with pytest.raises(InferenceError, match="fetch_model"):
        ensure_base()
    assert asked == [{"local_files_only": True}]


def test_a_hub_id_is_taken_from_the_cache_without_asking_the_network(
    settings, monkeypatch, tmp_path
):
    folder = write_base(tmp_path / "snapshot")
    asked = []

    def download(hub_id, **options):
        asked.append((hub_id, options))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    settings.MODEL = "somebody/some-model"
    call_command("fetch_model")
    assert ensure_base().base_model == str(folder)
    assert asked == [("somebody/some-model", {"local_files_only": True})] * 2


def test_half_a_fetched_model_is_fetched_to_its_end(settings, monkeypatch, tmp_path):
    folder = write_base(tmp_path / "snapshot")
    index = {"weight_map": {"a": "model.safetensors", "b": "second.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fetched = []

    def download(hub_id, local_files_only=False, **options):
        if not local_files_only:
            fetched.append(options["allow_patterns"])
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    settings.MODEL = "somebody/some-model"
    ensure_base(fetch=True)
    (patterns,) = fetched
    assert "*.safetensors" in patterns
    assert not any("bin" in pattern or ".py" in pattern for pattern in patterns)

"""Policy 0: found, named by its files, and explained when it is missing."""

import os

import pytest
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
    with pytest.raises(InferenceError, match="could not be fetched.*network"):
        ensure_base()


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
    assert ensure_base().base_model == str(folder)
    assert asked == [("somebody/some-model", {"local_files_only": True})]

"""A tiny random Llama with a byte-level tokenizer, and run folders around it."""

from functools import cache

import pytest
import torch

from tests.training.dpo.families import build, build_adapter, chatml_tokenizer
from tests.training.dpo.runs import PAIRS, write_run

CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums depend on how they are split among threads: one, everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Beside a GPU too: figures are held against those of a CPU in float32."""
    for module in ("prepare", "canary"):
        monkeypatch.setattr(f"training.dpo.{module}.pick_device", lambda: CPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of trainers that a test starts


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """`family(name)`: the folder of a tiny model of `FAMILIES` with its tokenizer."""
    return cache(lambda name: build(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def adapter_of(tmp_path_factory, family):
    """`adapter_of(name)`: the folder of a LoRA for it, A and B drawn at random."""
    return cache(
        lambda name: build_adapter(family(name), tmp_path_factory.mktemp("adapter"))
    )


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE of 320 tokens with a ChatML template."""
    return chatml_tokenizer()


@pytest.fixture(scope="session")
def base_model(family):
    """Folder of a Llama of 2 layers × 32 with random weights."""
    return family("llama")


@pytest.fixture
def make_run(tmp_path, base_model):
    """`make_run(name="run", pairs=PAIRS, held_out=None, **config)` writes a run folder."""

    def make(name="run", pairs=PAIRS, held_out=None, **config):
        return write_run(tmp_path / name, base_model, pairs, held_out, **config)

    return make

"""How large passes may be follows from where they will run, not from where the base lies."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from training.dpo import layout, tuning
from training.dpo.base import pick_dtype
from training.dpo.config import parse_config
from training.dpo.data import Answer, Pair
from training.dpo.layout import plan_layout, weight_bytes
from training.dpo.machine import device_memory
from training.dpo.run import explained

PAIR = Pair("a", 1, [1] * 8, [2] * 4, [3] * 4)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def base():
    """380 float32 weights: an embedding of 64 × 4 and a layer 4 wide. In main memory."""
    config = transformers.AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    # 64 · 4 embeddings, 7 products of 4 × 4 (q, k, v, o, gate, up, down), 3 norms of 4
    assert sum(p.numel() for p in model.parameters()) == 256 + 7 * 16 + 3 * 4
    return model


@pytest.fixture
def plan(base, tokenizer, monkeypatch):
    """`plan(device, memory, pairs, **config)` with two threads."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def planned(device, memory, pairs=(PAIR,), **config):
        monkeypatch.setattr(layout, "device_memory", lambda asked: memory)
        settings = parse_config({"base_model": "m", **config})
        return plan_layout(settings, base, device, tokenizer, pairs, {})

    return planned


def test_a_base_to_be_split_over_gpus_gets_a_gpus_passes(plan, monkeypatch):
    """It lies in main memory then; a CPU's passes would be 2¹⁸ / 4 hidden units long, and
    two at once."""
    monkeypatch.setattr(tuning, "world_size", lambda: 2)
    monkeypatch.setattr(layout, "world_size", lambda: 2)
    given, _ = plan(GPU, 80 << 30, sharding="full")
    assert (given.max_tokens, given.lanes) == (16384, 1)
    given, _ = plan(CPU, 80 << 30, sharding="full")
    assert (given.max_tokens, given.lanes) == (1 << 16, 2)


@pytest.fixture
def gpu(monkeypatch):
    """`gpu(major, free, own)`: one of 24 GiB, of CUDA's compute capability `major`."""

    def make(major=9, free=0, own=0):
        properties = SimpleNamespace(major=major, total_memory=24 << 30)
        told = {
            "is_available": True,
            "current_device": 0,
            "get_device_properties": properties,
            "mem_get_info": (free, 24 << 30),
            "memory_reserved": own,
            # Any of them takes a tensor of bfloat16.
            "_check_bf16_tensor_supported": True,
        }
        for name, value in told.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)

    return make


def test_beside_vllm_on_one_gpu_a_run_plans_with_what_that_leaves(gpu):
    """vLLM has 12 GiB of 24, the run's base 1 of the others by now."""
    gpu(free=11 << 30, own=1 << 30)
    assert device_memory(GPU) == 12 << 30


@pytest.mark.parametrize(
    ("major", "dtype"), [(7, torch.float32), (8, torch.bfloat16), (9, torch.bfloat16)]
)
def test_bfloat16_is_for_gpus_that_have_it_not_for_those_that_emulate_it(
    gpu, major, dtype
):
    gpu(major)
    assert pick_dtype("auto", torch.bfloat16, GPU) == dtype


def test_out_of_memory_on_a_gpu_is_told_with_what_helps_there():
    told = str(explained(torch.OutOfMemoryError("CUDA out of memory. Tried …")))
    assert "GPU" in told and "savings.checkpointing to true" in told
    assert "side_by_side" not in told and "\n" not in told


def test_weights_that_train_take_their_gradients_and_means_along(base, monkeypatch):
    """380 weights of 4 bytes; of 16, where all train; of 18 beside 16-bit copies; half
    of that on each of two processes that split them."""

    def held(tuned, model=base):
        config = parse_config({"base_model": "m", "tuning": tuned})
        return weight_bytes(config, model, CPU)

    assert (held("lora"), held("full")) == (380 * 4, 380 * 16)
    assert held("full", base.to(torch.bfloat16)) == 380 * 18
    monkeypatch.setattr(tuning, "world_size", lambda: 2)
    monkeypatch.setattr(layout, "world_size", lambda: 2)
    assert held("full") == 380 * 9


def test_the_prompt_of_a_labelled_answer_takes_memory(plan):
    """A pass of 40,001 tokens keeps (2 + 2 + 2) · 4 numbers of 4 bytes a token in the one
    layer; 0.6 of the memory holds it and the weights once, but not twice."""
    answer = Answer("a", 1, [1] * 40_000, [2], [])
    needed = (40_001 * 24 * 4 + 380 * 4) / 0.6
    for memory, lanes in ((needed * 1.01, 1), (needed * 2.01, 2)):
        given, keeps_input_only = plan(CPU, int(memory), [answer], loss="kto")
        assert (given.lanes, keeps_input_only) == (lanes, False)
    assert plan(CPU, int(needed * 0.99), [answer], loss="kto")[1]

"""What is chosen where config.json leaves it open."""

import subprocess
import sys
from dataclasses import replace

import pytest
from transformers import (
    Gemma3nTextConfig,
    Gemma4TextConfig,
    LlamaConfig,
    MambaConfig,
)

from training.dpo.config import TrainingConfig
from training.dpo.defaults import (
    evaluation_steps,
    forward_tokens,
    kept_bytes,
    passes_held,
    settle,
)


@pytest.mark.parametrize(
    ("pairs", "epochs", "batch", "updates"),
    [
        (1, 50, 1, 50),  # 50 epochs are the most
        (10, 10, 1, 100),
        (16, 7, 1, 112),
        (52, 6, 2, 156),  # four a step: 13 · 6 = 78
        (89, 6, 4, 138),  # eight a step: 12 · 6 = 72
        (600, 3, 16, 114),  # sixteen a step are the most
        (6000, 1, 32, 188),
    ],
)
def test_batch_and_epochs_leave_enough_updates(pairs, epochs, batch, updates):
    settled = settle(TrainingConfig("m"), 2_000_000, pairs)
    assert (settled.epochs, settled.batch_size) == (epochs, batch)
    assert -(-pairs // batch) * epochs == updates >= 50


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [(2e6, 5e-4), (135e6, 2e-4), (494e6, 1e-4), (3e9, 5e-5), (7.6e9, 2e-5)],
)
def test_larger_models_get_smaller_rates(parameters, rate):
    settled = settle(TrainingConfig("m"), int(parameters), 100)
    assert settled.learning_rate == rate
    assert settled.reasons["learning_rate"] != "given"


@pytest.mark.parametrize(
    ("tuning", "parameters", "rate"),
    [
        ("lora", 2e6, 1e-3),
        ("lora", 135e6, 5e-4),
        ("lora", 7.6e9, 2e-4),
        ("lora", 70e9, 1e-4),
        ("full", 7.6e9, 1e-5),
    ],
)
def test_the_supervised_rate_is_chosen_by_size_and_told_where_it_is_used(
    tuning, parameters, rate
):
    config = TrainingConfig("m", tuning=tuning, sft_epochs=1)
    settled = settle(config, int(parameters), 100)
    assert settled.sft_learning_rate == pytest.approx(rate)
    assert "supervised" in settled.as_dict()["sft_learning_rate"]["why"]
    given = settle(replace(config, sft_learning_rate=3e-4), 2_000_000, 100)
    assert given.as_dict()["sft_learning_rate"] == {"value": 3e-4, "why": "given"}
    assert "sft_learning_rate" not in settle(TrainingConfig("m"), 100, 1).as_dict()


def test_full_tuning_gets_a_twentieth_of_the_rate():
    settled = settle(TrainingConfig("m", tuning="full"), 7_600_000_000, 100)
    assert settled.learning_rate == pytest.approx(1e-6)
    assert "full tuning" in settled.reasons["learning_rate"]


@pytest.mark.parametrize(
    ("total", "step_tokens", "held_out_tokens", "every"),
    [
        (100, 1000, 500, 10),  # ten in a run
        (95, 1000, 500, 10),
        (7, 1000, 100, 1),
        # evaluating costs 6000 / 3 = 2000, a tenth of 20 steps of 1000
        (100, 1000, 6000, 20),
        (15, 1000, 6000, 20),  # so not within 15 steps
    ],
)
def test_evaluations_are_some_ten_and_cost_a_tenth_at_most(
    total, step_tokens, held_out_tokens, every
):
    assert evaluation_steps(total, step_tokens, held_out_tokens) == every


def test_what_is_given_stays():
    config = TrainingConfig("m", learning_rate=1e-5, epochs=1, batch_size=7)
    settled = settle(config, 2_000_000, 20)
    values = (settled.learning_rate, settled.epochs, settled.batch_size)
    assert values == (1e-5, 1, 7)
    assert set(settled.reasons.values()) == {"given"}


@pytest.mark.parametrize(
    ("pairs", "epochs", "why"),
    [
        (3, 2, "one pair an update, as even that makes fewer than 100: 6"),
        (50, 2, "the largest power of two that leaves at least 100 updates; it makes"),
        (49, 2, "one pair an update, as even that makes fewer than 100: 98"),
    ],
)
def test_the_reason_for_a_batch_is_true_where_updates_are_few(pairs, epochs, why):
    settled = settle(TrainingConfig("m", epochs=epochs), 2_000_000, pairs)
    assert settled.batch_size == 1
    assert settled.reasons["batch_size"].startswith(why)


def test_epochs_make_up_for_a_large_batch_that_was_given():
    """40 pairs by 10: four steps an epoch, so 25 epochs for 100 updates."""
    assert settle(TrainingConfig("m", batch_size=10), 2_000_000, 40).epochs == 25


def test_a_forward_pass_fits_half_the_memory():
    """24 layers, hidden 896, inner 4864: 4 · 24 · (16 · 896 + 4 · 4864) = 3,244,032
    bytes a token; half of 16 GiB holds 2648, so 2048; 1 GiB only 165, the least is 256.
    """
    config = LlamaConfig(hidden_size=896, intermediate_size=4864, num_hidden_layers=24)
    assert forward_tokens(config, 16 << 30, on_gpu=True) == 2048
    assert forward_tokens(config, 1 << 30, on_gpu=True) == 256
    assert forward_tokens(config, 1 << 40, on_gpu=True) == 16384


def test_a_forward_pass_on_a_cpu_takes_what_keeps_it_busy():
    """2¹⁸ / 896 = 293 tokens, so 512; 2¹⁸ / 192 = 1366, so 2048."""
    wide = LlamaConfig(hidden_size=896, intermediate_size=4864, num_hidden_layers=24)
    narrow = LlamaConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=4)
    assert forward_tokens(wide, 16 << 30, on_gpu=False) == 512
    assert forward_tokens(narrow, 16 << 30, on_gpu=False) == 2048
    assert forward_tokens(wide, 1 << 30, on_gpu=False) == 256


def test_passes_run_at_once_as_far_as_memory_holds_what_they_keep():
    """2 layers, hidden 8, 2 heads of 4 with one key head: a token keeps 2 · 8 + 2 · 8 +
    2 · 4 = 40 numbers a layer; 10 tokens in float32 take 3,200 bytes, with 2,800 of
    weights 6,000, six tenths of 10,000. Two passes and 240 are 6,640, six tenths of
    11,066⅔; where there is room for none, layers keep their input only."""
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    kept = kept_bytes(config, 10, 4)
    assert kept == 3_200
    assert [passes_held(kept, weights, 10_000) for weights in (2_800, 2_801)] == [1, 0]
    assert [passes_held(kept, 240, memory) for memory in (11_067, 11_066)] == [2, 1]
    assert passes_held(kept, 10_000, 100) == 0


def test_layers_of_transformers_are_taken_to_keep_more():
    """44 · 8 + 13 · 16 = 560 bytes a token and layer, whatever the dtype."""
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    for number_bytes in (2, 4):
        assert kept_bytes(config, 10, number_bytes, fused=False) == 11_200


def test_sizes_that_differ_between_layers_or_are_not_there_are_estimated():
    """Mamba has no heads, inner vectors of 16: 2 · 8 + 2 · 8 + 2 · 8 = 48 numbers a token
    and layer. Gemma 4: 2 heads of 4 (windows) or 8, one of keys, the larger counts:
    2 · 8 + 2 · 16 + 2 · 8 = 64. Both 2 layers, 10 tokens, float32."""
    mamba = MambaConfig(hidden_size=8, num_hidden_layers=2, expand=2)
    assert kept_bytes(mamba, 10, 4) == 48 * 2 * 10 * 4
    gemma = Gemma4TextConfig(
        **{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1},
        **{"head_dim": 4, "global_head_dim": 8},
    )
    assert kept_bytes(gemma, 10, 4) == 64 * 2 * 10 * 4
    inner = Gemma3nTextConfig(intermediate_size=[16, 32], num_hidden_layers=2)
    assert kept_bytes(inner, 1, 4, fused=False) == 2 * (44 * 2048 + 13 * 32)
    for config in (mamba, gemma, inner):
        assert forward_tokens(config, 16 << 30, on_gpu=False) >= 256


def test_reading_a_config_needs_no_torch():
    """So that a web process may check one."""
    script = (
        "import sys, training.dpo.config, training.dpo.defaults, training.dpo.status;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0

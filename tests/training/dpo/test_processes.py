"""Several processes give one process's numbers, and end and resume together."""

import pytest
import torch
from safetensors.torch import load_file

from tests.training.dpo.processes import train_in
from tests.training.dpo.runs import PAIRS, read_json, read_rows, train_here, write_run
from training.dpo.checkpoint import newest_checkpoint
from training.dpo.distributed import shared_out

CONFIG = {
    # of six pairs: the second step of an epoch has one, so one process has none
    "batch_size": 5,
    "epochs": 3,
    "eval_steps": 2,
    "learning_rate": 1e-3,
    "micro_batch_size": 2,
}
SHOWN = ("adapter/adapter_model.safetensors", "model/model.safetensors")


@pytest.fixture
def make(tmp_path, base_model):
    def make(name, **config):
        weighted = [row | {"weight": 1 + i % 3} for i, row in enumerate(PAIRS)]
        return write_run(
            tmp_path / name, base_model, weighted, PAIRS[:3], **CONFIG | config
        )

    return make


def figures(run):
    """The lines of metrics.jsonl but for what a clock decides."""
    rows = read_rows(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "pairs_per_second"} for row in rows]


def assert_close(row, other, within=1e-5):
    """The same keys and words, and numbers within that, of size or absolutely."""
    assert row.keys() == other.keys()
    for key, value in row.items():
        margin = other.get(key.replace("accuracies", "margins"), 1)
        if key.endswith("rewards/accuracies") and abs(margin) < within:
            continue  # strict, so at the start it counts roundings
        if isinstance(value, float):
            assert value == pytest.approx(other[key], rel=within, abs=within), key
        else:
            assert value == other[key], key


def assert_same_numbers(run, other, within=1e-5):
    """Every figure of every step, every trained weight, every pair's margin."""
    for mine, theirs in zip(figures(run), figures(other), strict=True):
        assert_close(mine, theirs, within)
    for name in SHOWN:
        assert (run / name).exists() == (other / name).exists()
        if (run / name).exists():
            mine, theirs = load_file(run / name), load_file(other / name)
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                torch.testing.assert_close(value, theirs[key], rtol=within, atol=within)
    ours, canary = read_json(run / "canary.json"), read_json(other / "canary.json")
    for mine, theirs in zip(ours["prompts"], canary["prompts"], strict=True):
        assert mine["logprobs"] == pytest.approx(theirs["logprobs"], abs=within)
        assert mine["base_logprobs"] == pytest.approx(
            theirs["base_logprobs"], abs=within
        )
    for mine, theirs in zip(
        read_rows(run / "pairs_scored.jsonl"),
        read_rows(other / "pairs_scored.jsonl"),
        strict=True,
    ):
        assert_close(mine, theirs, within)


@pytest.mark.parametrize(
    "config",
    [
        {"sft_epochs": 1},
        {"sharding": "full", "loss": {"aot": 1.0, "sft": 0.2}},
        {"tuning": "full", "sft_epochs": 1},
    ],
    ids=["adapter", "coupled losses, adapter on a sharded base", "full, sharded"],
)
def test_two_processes_give_the_numbers_of_one(make, config):
    one, two = make("one", **config), make("two", **config)
    train_here(one)
    train_in(2, two)
    assert_same_numbers(two, one)
    summary = read_json(two / "summary.json")
    assert summary["processes"] == 2
    assert summary["tokens"] == read_json(one / "summary.json")["tokens"]


def test_bfloat16_trains_float32_weights_in_one_process_and_sharded(make):
    """Each update is under 1e-4, too small for most bfloat16 weights to move by: rounded
    away step by step, nothing would be learned.
    """
    runs = [
        make(name, tuning="full", dtype="bfloat16", learning_rate=1e-4, epochs=8)
        for name in ("one", "two")
    ]
    train_here(runs[0])
    train_in(2, runs[1])
    for run in runs:
        summary = read_json(run / "summary.json")
        assert summary["dtype"] == "bfloat16"
        assert summary["held_out"]["difference"]["loss"]["value"] < -0.1
        weights = load_file(run / "model" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        kept = load_file(newest_checkpoint(run / "checkpoints") / "state.safetensors")
        assert {value.dtype for value in kept.values()} == {torch.float32}


def test_pairs_are_shared_out_by_their_tokens():
    """9 goes first, 7 to the other, 4 to the one with 7, 3 to the one with 9, …

    9 | 7, 9 | 7 + 4, 9 + 3 | 11, 12 | 11 + 2, 12 + 1 | 13.
    """
    assert shared_out([1, 9, 2, 7, 3, 4], 2) == [[0, 1, 4], [2, 3, 5]]
    assert shared_out([5], 2) == [[0], []]
    assert shared_out([], 2) == [[], []]

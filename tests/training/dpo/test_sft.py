"""Supervised training before DPO: what it does, and that DPO measures against it."""

import pytest

from tests.training.dpo.runs import PAIRS, read_json, read_rows, train_here, write_run
from tests.training.dpo.test_resume import StopAfter, assert_same_run
from training.dpo import train as loop
from training.dpo.anchor import AFTER_SFT
from training.dpo.errors import Stopped
from training.dpo.run import run_folder

SUPERVISED = {
    *("step", "phase", "epoch", "loss", "mean_token_accuracy", "entropy"),
    *("num_tokens", "grad_norm", "learning_rate", "pairs_per_second"),
    *("logps/chosen", "logits/chosen", "drift/chosen"),
}
CONFIG = {
    "batch_size": 2,
    "sft_epochs": 3,
    "sft_learning_rate": 1e-2,
    "epochs": 4,
    "learning_rate": 1e-3,
    "save_steps": 4,
    "eval_steps": 5,
    "lora": {"r": 4, "dropout": 0.1},
}
SFT_STEPS, STEPS = 9, 21  # 6 pairs, 2 a step: 3 epochs of 3, then 4 epochs of 3


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, base_model):
    folder = tmp_path_factory.mktemp("left alone") / "run"
    train_here(write_run(folder, base_model, held_out=PAIRS[:2], **CONFIG))
    return folder


def test_the_run_has_two_phases_and_one_count_of_steps(uninterrupted):
    rows = read_rows(uninterrupted / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["phase"] for row in rows] == ["sft"] * SFT_STEPS + ["dpo"] * 12
    plain = [row for row in rows if "eval_loss" not in row]
    assert all(set(row) == SUPERVISED for row in plain if row["phase"] == "sft")
    assert rows[8]["epoch"] == 3.0 and rows[9]["epoch"] == pytest.approx(1 / 3)
    # each phase rises from 0 and falls towards it
    assert rows[0]["learning_rate"] == rows[SFT_STEPS]["learning_rate"] == 0
    assert rows[1]["learning_rate"] == 1e-2 and rows[11]["learning_rate"] == 1e-3
    # at the start, every 5th step, at each phase's ends
    evaluated = [row["step"] for row in rows if "eval_loss" in row]
    assert evaluated == [1, 5, 9, 10, 15, 20, 21]
    status = read_json(uninterrupted / "status.json")
    assert (status["step"], status["total_steps"]) == (STEPS, STEPS)
    assert not (uninterrupted / AFTER_SFT).exists()


def test_supervised_training_raises_the_chosen_answers(uninterrupted):
    """On the pairs it trains on and, here, on the held-out ones, which are among them."""
    rows = read_rows(uninterrupted / "metrics.jsonl")
    first, last = rows[0], rows[SFT_STEPS - 1]
    assert last["eval_logps/chosen"] > first["eval_logps/chosen"] + 10
    assert last["eval_loss"] < first["eval_loss"] - 0.5
    assert last["eval_mean_token_accuracy"] > first["eval_mean_token_accuracy"]
    assert last["eval_drift/chosen"] > 0.5 and first["eval_drift/chosen"] == 0


def test_dpo_measures_against_the_weights_after_it(uninterrupted):
    """Rewards of exactly 0 on the held-out pairs, laid out as in the reference pass; in
    a step of other pairs up to rounding. The drift is still against the base."""
    start = read_rows(uninterrupted / "metrics.jsonl")[SFT_STEPS]
    for name in ("chosen", "rejected", "margins"):
        assert start[f"eval_rewards/{name}"] == 0
    assert start["eval_drift/chosen"] > 0.5


def test_reference_base_stays_the_base(make_run):
    run = make_run(held_out=PAIRS[:2], reference="base", **CONFIG)
    train_here(run)
    start = read_rows(run / "metrics.jsonl")[SFT_STEPS]
    assert start["eval_rewards/chosen"] > 1
    assert not (run / AFTER_SFT).exists()


@pytest.mark.parametrize("looks", range(0, 30, 3))
def test_a_stop_at_any_point_of_either_phase_changes_nothing(
    looks, make_run, uninterrupted
):
    run = make_run(held_out=PAIRS[:2], **CONFIG)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(looks))
    train_here(run)
    assert_same_run(run, uninterrupted)


def kill_after(step, run, monkeypatch):
    """End the run without another word once `step` is written: what kill -9 leaves."""

    class Killed(BaseException):
        pass

    real = loop._step

    def step_or_die(run, phase, optimizer, position):
        if position.step >= step:
            raise Killed
        return real(run, phase, optimizer, position)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", step_or_die)
        with pytest.raises(Killed):
            train_here(run)


@pytest.mark.parametrize("step", [3, 8, 9, 10, 14])
def test_killed_between_or_in_the_phases_it_goes_on_to_the_same_end(
    step, make_run, uninterrupted, monkeypatch
):
    run = make_run(held_out=PAIRS[:2], **CONFIG)
    kill_after(step, run, monkeypatch)
    train_here(run)
    assert_same_run(run, uninterrupted)

"""Supervised training before DPO: what it does, and that DPO measures against it."""

import shutil

import pytest
from safetensors.torch import load_file, save_file

from tests.training.dpo.runs import (
    PAIRS,
    chat,
    read_json,
    read_rows,
    train_here,
    write_run,
)
from tests.training.dpo.test_resume import StopAfter, assert_same_run, without_speed
from training.dpo import train as loop
from training.dpo.anchor import AFTER_SFT
from training.dpo.config import load_config
from training.dpo.errors import Stopped, TrainerError
from training.dpo.phases import work_left
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.run import run_folder
from training.dpo.status import StatusFile

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
HELD_OUT = [
    chat("How do I boil rice?", "1. water 2. time", "I do not know."),
    chat("怎样煮茶?", "先把水烧开,再煮八分钟。", "不知道。"),
]
SFT_STEPS, STEPS = 9, 21  # 6 pairs, 2 a step: 3 epochs of 3, then 4 epochs of 3


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, base_model):
    folder = tmp_path_factory.mktemp("left alone") / "run"
    train_here(write_run(folder, base_model, held_out=HELD_OUT, **CONFIG))
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
    """Measured on held-out pairs, whose answers are like those trained on."""
    rows = read_rows(uninterrupted / "metrics.jsonl")
    first, last = rows[0], rows[SFT_STEPS - 1]
    assert last["eval_logps/chosen"] > first["eval_logps/chosen"] + 10
    assert last["eval_loss"] < first["eval_loss"] - 0.5
    assert last["eval_drift/chosen"] > 0.5 and first["eval_drift/chosen"] == 0


def test_dpo_measures_against_the_weights_after_it(uninterrupted):
    """Rewards of exactly 0 on the held-out pairs, laid out as in the reference pass; in
    a step of other pairs up to rounding. The drift is still against the base."""
    start = read_rows(uninterrupted / "metrics.jsonl")[SFT_STEPS]
    for name in ("chosen", "rejected", "margins"):
        assert start[f"eval_rewards/{name}"] == 0
    assert start["eval_drift/chosen"] > 0.5


def test_reference_base_stays_the_base(make_run):
    run = make_run(held_out=HELD_OUT, reference="base", **CONFIG)
    train_here(run)
    start = read_rows(run / "metrics.jsonl")[SFT_STEPS]
    assert start["eval_rewards/chosen"] > 1
    assert not (run / AFTER_SFT).exists()


@pytest.mark.parametrize("looks", range(0, 30, 3))
def test_a_stop_at_any_point_of_either_phase_changes_nothing(
    looks, make_run, uninterrupted
):
    run = make_run(held_out=HELD_OUT, **CONFIG)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(looks))
    status = read_json(run / "status.json")
    assert status["phase"] not in ("sft", "training") or not status["phase_total"]
    train_here(run)
    assert_same_run(run, uninterrupted)


def test_a_finished_run_started_again_ends_the_same(uninterrupted, tmp_path):
    """The kept weights are gone by then; the cached log-probs are enough."""
    copy = shutil.copytree(uninterrupted, tmp_path / "copy")
    train_here(copy)
    assert_same_run(copy, uninterrupted)


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
    run = make_run(held_out=HELD_OUT, **CONFIG)
    kill_after(step, run, monkeypatch)
    train_here(run)
    assert_same_run(run, uninterrupted)


def lose(run, *names):
    for name in names:
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).unlink(missing_ok=True)


def test_a_lost_cache_is_made_again_from_the_kept_weights(
    make_run, uninterrupted, monkeypatch
):
    run = make_run(held_out=HELD_OUT, **CONFIG)
    kill_after(14, run, monkeypatch)
    lose(run, "reference")
    train_here(run)
    assert_same_run(run, uninterrupted)


def test_lost_weights_are_not_missed_while_the_cache_is_there(
    make_run, uninterrupted, monkeypatch
):
    run = make_run(held_out=HELD_OUT, **CONFIG)
    kill_after(14, run, monkeypatch)
    lose(run, AFTER_SFT)
    train_here(run)
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize("damage", ["gone", "older", "torn"])
def test_a_reference_that_is_lost_is_said_never_guessed(damage, make_run, monkeypatch):
    """Kept weights that are gone, torn, or of another moment, and no cached log-probs."""
    run = make_run(held_out=HELD_OUT, **CONFIG)
    kill_after(14, run, monkeypatch)
    lose(run, "reference")
    kept = run / AFTER_SFT
    if damage == "older":
        tensors = load_file(kept)
        save_file({name: tensor + 1e-3 for name, tensor in tensors.items()}, kept)
    elif damage == "torn":
        kept.write_bytes(kept.read_bytes()[:100])
    else:
        kept.unlink()
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(TrainerError, match="after supervised training, is lost"):
        train_here(run)
    assert read_rows(run / "metrics.jsonl")[-1]["step"] == 12
    assert before.startswith((run / "metrics.jsonl").read_bytes())


def test_a_chain_of_attempts_hands_the_kept_weights_on(
    make_run, uninterrupted, monkeypatch
):
    """Each attempt resumes from the one before it, whose cache is then deleted."""
    first = make_run("first", held_out=HELD_OUT, **CONFIG)
    kill_after(14, first, monkeypatch)
    second = make_run("second", held_out=HELD_OUT, **CONFIG, resume_from=str(first))
    kill_after(17, second, monkeypatch)
    lose(first, "reference")
    lose(second, "reference")
    third = make_run("third", held_out=HELD_OUT, **CONFIG, resume_from=str(second))
    train_here(third)
    assert_same_run(third, uninterrupted)


def test_dpo_after_it_is_the_dpo_of_a_run_of_its_own(make_run):
    """Phase by phase: a run's DPO from step 10 on has the losses, rewards, gradients and
    adapter, bit for bit, of a run that starts from the adapter the first phase made.

    That adapter is the second run's parent; it is taken from after_sft.safetensors of
    a run stopped in its DPO, so names and figures are those of the weights in memory.
    """
    whole = make_run("whole", held_out=HELD_OUT, **CONFIG)
    train_here(whole)
    cut = make_run("cut", held_out=HELD_OUT, **CONFIG)
    with pytest.raises(Stopped):
        run_folder(cut, StopAfter(25))
    parent = shutil.copytree(whole / "adapter", cut / "parent")
    names = {
        name.replace(".default.weight", ".weight"): tensor
        for name, tensor in load_file(cut / AFTER_SFT).items()
    }
    save_file(names, parent / "adapter_model.safetensors")
    rest = {k: v for k, v in CONFIG.items() if not k.startswith("sft_")}
    alone = make_run("alone", held_out=HELD_OUT, parent_adapter=str(parent), **rest)
    train_here(alone)
    ours = read_rows(whole / "metrics.jsonl")[SFT_STEPS:]
    theirs = read_rows(alone / "metrics.jsonl")
    assert len(ours) == len(theirs) == 12
    counted = {"step", "num_tokens", "pairs_per_second"}
    for one, other in zip(ours, theirs, strict=True):
        assert one["step"] == other["step"] + SFT_STEPS
        # evaluation intervals are counted in the run's steps
        same = {k for k in one if k in other} - counted
        assert {k: one[k] for k in same} == {k: other[k] for k in same}
    for name in ("adapter/adapter_model.safetensors", "pairs_scored.jsonl"):
        assert (whole / name).read_bytes() == (alone / name).read_bytes()


def test_a_weight_counts_an_answer_that_many_times(make_run):
    """Σ w·nll / Σ w·n: one answer of weight 3 beside one of weight 1 gives the loss and
    the gradient of itself three times beside the other one once."""
    light, heavy = PAIRS[0], PAIRS[2]
    plain = {"sft_epochs": 3, "epochs": 1, "shuffle": False}
    weighted = make_run(
        "weighted", [light, heavy | {"weight": 3.0}], batch_size=2, **plain
    )
    three = [heavy | {"id": copy} for copy in range(3)]
    repeated = make_run("repeated", [light, *three], batch_size=4, **plain)
    train_here(weighted)
    train_here(repeated)
    for one, other in zip(
        read_rows(weighted / "metrics.jsonl")[:3],
        read_rows(repeated / "metrics.jsonl")[:3],
        strict=True,
    ):
        assert one["phase"] == other["phase"] == "sft"
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_forward_passes_do_not_change_a_supervised_step(make_run):
    runs = [
        make_run(f"{size}", batch_size=6, epochs=1, sft_epochs=3, micro_batch_size=size)
        for size in (6, 1)
    ]
    for run in runs:
        train_here(run)
    whole, split = (read_rows(run / "metrics.jsonl")[:3] for run in runs)
    for one, other in zip(whole, split, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_a_first_tokens_answer_without_prompt_is_not_counted(make_run):
    """Without a prompt an answer's first token has no prediction: of 2 tokens 1 counts.

    The loss is then that token's −log p, and logps/chosen is minus it.
    """
    pairs = [{"prompt_ids": [], "chosen_ids": [9, 10], "rejected_ids": [9, 11]}]
    run = make_run(pairs=pairs, epochs=1, sft_epochs=1, batch_size=1)
    train_here(run)
    row = read_rows(run / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(-row["logps/chosen"], rel=1e-6)


def test_a_loss_that_is_no_number_names_the_rate_of_its_phase(make_run):
    config = {"sft_epochs": 5, "sft_learning_rate": 1e25, "warmup_ratio": 0}
    run = make_run(batch_size=6, **config)
    with pytest.raises(TrainerError, match="not a finite number.*Lower sft_learning"):
        train_here(run)


def test_a_phase_of_one_step_trains_at_its_full_rate(make_run):
    """A tenth of one step, rounded up, would be all of it, at a rate of 0."""
    run = make_run(**CONFIG | {"batch_size": 8, "sft_epochs": 1, "epochs": 1})
    train_here(run)
    lines = read_rows(run / "metrics.jsonl")
    rates = [line["learning_rate"] for line in lines]
    config = read_json(run / "summary.json")["config"]
    assert rates == [config["sft_learning_rate"], config["learning_rate"]]
    assert lines[1]["drift/chosen"] > 0
    codes = [w["code"] for w in read_json(run / "preflight.json")["warnings"]]
    assert "few_sft_updates" in codes and "few_updates" in codes


def test_the_time_left_counts_what_each_phase_costs(make_run):
    """A supervised step runs the prompt and one answer, a DPO step the prompt twice and
    both answers: with prompts of 2 and answers of 2 tokens, 4 against 8 a pair. Two
    pairs a step, 3 supervised steps and 6 of DPO: 3·8 + 6·16 = 120 tokens; after the
    second supervised step 104 are left, after the fourth step of all 80.
    """
    pair = {"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": [9, 10]}
    run = make_run(
        pairs=[pair, pair], batch_size=2, sft_epochs=3, epochs=6, micro_batch_size=1
    )
    phases = prepare(
        run, load_config(run / "config.json"), StopFlag(), StatusFile(run)
    ).run.phases
    assert [(phase.first, phase.last) for phase in phases] == [(0, 3), (3, 9)]
    assert [work_left(phases, step) for step in (0, 2, 4, 9)] == [120, 104, 80, 0]


def test_it_goes_on_from_a_parent_adapter(make_run, uninterrupted):
    """The drift of the first supervised step is what the parent moved; with reference
    "start" the rewards of DPO begin at 0 all the same.
    """
    parent = str(uninterrupted / "adapter")
    config = CONFIG | {"parent_adapter": parent, "lora": {}, "epochs": 1}
    for reference in ("start", "base"):
        run = make_run(reference, held_out=HELD_OUT, reference=reference, **config)
        train_here(run)
        rows = read_rows(run / "metrics.jsonl")
        assert rows[0]["drift/chosen"] > 0.5
        assert rows[SFT_STEPS - 1]["drift/chosen"] > rows[0]["drift/chosen"]
        reward = rows[SFT_STEPS]["eval_rewards/chosen"]
        assert reward == 0 if reference == "start" else reward > 1


def test_without_a_reference_nothing_is_kept(make_run, monkeypatch):
    """SimPO measures against nothing: no pass and no file after the supervised steps."""
    run = make_run(loss="simpo", beta=2.0, batch_size=2, sft_epochs=1, epochs=1)
    kill_after(4, run, monkeypatch)
    assert not (run / AFTER_SFT).exists()
    train_here(run)
    rows = read_rows(run / "metrics.jsonl")
    assert [row["phase"] for row in rows] == ["sft"] * 3 + ["dpo"] * 3


def test_full_tuning_finds_its_reference_again(make_run, monkeypatch):
    """There all weights move, so the reference is in the kept weights or the cache only;
    here the cache is lost in the middle of DPO."""
    config = CONFIG | {"tuning": "full", "lora": {}, "sft_learning_rate": 1e-3}
    whole = make_run("whole", held_out=HELD_OUT, **config)
    train_here(whole)
    killed = make_run("killed", held_out=HELD_OUT, **config)
    kill_after(14, killed, monkeypatch)
    lose(killed, "reference")
    train_here(killed)
    rows = read_rows(killed / "metrics.jsonl")
    assert rows[SFT_STEPS]["eval_rewards/margins"] == 0
    assert without_speed(killed) == without_speed(whole)
    weights = "model/model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()

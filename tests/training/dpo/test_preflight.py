"""What is said before a run, and that saying it changes nothing."""

import json
import shutil
from contextlib import suppress

import pytest
import torch

from tests.training.dpo.runs import PAIRS, chat, read_json, read_rows, train_here
from training.dpo import preflight
from training.dpo.__main__ import main
from training.dpo.data import Answer, Pair
from training.dpo.errors import TrainerError
from training.dpo.preflight import Measured, fitted, token_counts

CONFIG = {"batch_size": 2, "epochs": 8, "learning_rate": 1e-3}


@pytest.fixture
def measuring(monkeypatch):
    """Tiny runs are measured too."""
    monkeypatch.setattr(preflight, "SHORT_RUN", 0)
    monkeypatch.setattr(preflight, "MEASURING_SHARE", 1)


def test_tokens_are_counted_by_side_and_as_shared():
    """Prompts 3 + 1, chosen 2 + 3, rejected 2 + 1; the second pair's answers begin with
    the same token: shared 3 + 1 + 1. Longest: 1 + 3 and 3 + 2."""
    pairs = [
        Pair("a", 1, [1, 2, 3], [4, 5], [6, 5]),
        Pair("b", 2, [1], [7, 8, 9], [7]),
    ]
    assert token_counts(pairs) == {
        "prompt": 4,
        "chosen": 5,
        "rejected": 3,
        "shared": 5,
        "longest": 5,
    }


def test_labelled_answers_are_counted_by_label_without_their_strays():
    """Prompts 3 + 1, desirable 2, undesirable 3. With strays of 1 and 4 tokens one way
    through the model serves 3 + 1 tokens of each, and the longest is 1 + 4."""
    answers = [
        Answer("a", 1, [1, 2, 3], [4, 5], [6], label=True),
        Answer("b", 2, [1], [7, 8, 9], [6, 6, 6, 6], label=False),
    ]
    assert token_counts(answers) == {
        "prompt": 4,
        "chosen": 2,
        "rejected": 3,
        "shared": 4,
        "longest": 5,
    }


def test_time_is_split_into_steps_and_tokens():
    """2 s for 100 tokens and 5 s for 400: 1 s a step and 1/100 s a token. Where the
    longer step was quicker, all goes by tokens: 5 s for 500."""
    a_step, a_token = fitted([Measured(2, 100, 2.0), Measured(2, 400, 5.0)])
    assert (a_step, a_token) == pytest.approx((1.0, 0.01))
    assert fitted([Measured(2, 100, 3.0), Measured(2, 400, 2.0)]) == (0, 0.01)
    assert fitted([Measured(2, 100, 1.0), Measured(2, 100, 1.0)]) == (0, 0.01)


def test_measuring_changes_no_number(make_run, measuring):
    """Dropout draws random numbers, which measuring draws too: they are put back."""
    config = CONFIG | {"lora": {"r": 4, "dropout": 0.3}, "epochs": 3}
    measured = make_run("measured", held_out=PAIRS[:2], **config)
    train_here(measured)
    told = read_json(measured / "preflight.json")["estimate"]
    assert told["why_not_measured"] is None and len(told["measured"]) == 2
    assert told["measured"][1]["tokens"] >= told["measured"][0]["tokens"]
    assert told["seconds"] > 0 and told["peak_memory_bytes"] > 0

    preflight.SHORT_RUN = float("inf")
    plain = make_run("plain", held_out=PAIRS[:2], **config)
    train_here(plain)
    estimate = read_json(plain / "preflight.json")["estimate"]
    assert estimate["why_not_measured"] == "the run is short"
    for one, other in zip(
        read_rows(measured / "metrics.jsonl"),
        read_rows(plain / "metrics.jsonl"),
        strict=True,
    ):
        del one["pairs_per_second"], other["pairs_per_second"]
        assert one == other
    name = "adapter/adapter_model.safetensors"
    assert (measured / name).read_bytes() == (plain / name).read_bytes()


def test_measuring_is_bounded_by_its_share_of_the_run(make_run, monkeypatch):
    """Three measured steps of three steps are more than a twentieth."""
    monkeypatch.setattr(preflight, "SHORT_RUN", 0)
    run = make_run(**CONFIG | {"epochs": 1})
    train_here(run)
    told = read_json(run / "preflight.json")["estimate"]
    assert "noticeable share" in told["why_not_measured"] and "seconds" not in told


def test_the_terminal_says_what_is_coming_and_what_is_odd(make_run, capsys):
    leak = [PAIRS[0], chat("Water?", "1. water", "No.", id="water")]
    run = make_run(held_out=leak, batch_size=2)
    train_here(run)
    said = capsys.readouterr().err
    assert "6 of 6 rows train; tokens: prompts " in said
    # 6 pairs by 2: 3 steps an epoch, so 34 epochs for 100 updates
    assert "dpo: 102 steps of 2 pairs, 34 epochs, learning rate 0.0005" in said
    assert "  learning_rate 0.0005: usual for LoRA on a model of 0.0 million" in said
    assert "  batch_size" not in said  # given
    assert "held out: 2 pairs of 2 prompts, evaluated at the start, every 11 st" in said
    assert said.count("warning: Held-out pairs whose prompt also trains: 1") == 1

    codes = ["few_pairs", "few_held_out", "held_out_leak"]
    told = read_json(run / "preflight.json")
    assert [warning["code"] for warning in told["warnings"]] == codes
    assert told["phases"][0]["steps"] == 102 and told["phases"][0]["eval_steps"] == 11
    assert read_json(run / "status.json")["warnings"][:3] == told["warnings"]
    summary = read_json(run / "summary.json")
    assert summary["warnings"][:3] == told["warnings"]
    assert summary["preflight"] == told
    rows = read_rows(run / "metrics.jsonl")
    evaluated = [row["step"] for row in rows if "eval_loss" in row]
    assert evaluated == [1, *range(11, 100, 11), 102]


def test_a_policy_that_does_not_move_is_said_while_it_trains(make_run, capsys):
    run = make_run(batch_size=1, epochs=8, learning_rate=1e-9)
    train_here(run)
    said = capsys.readouterr().err
    assert said.count("the loss is still 0.6931") == 1
    assert "step 20 of 48" in said
    codes = [w["code"] for w in read_json(run / "summary.json")["warnings"]]
    assert codes[-1] == "stuck" and "learning_rate_unusual" in codes


def test_check_looks_and_leaves_a_finished_run_alone(make_run, capsys):
    run = make_run(**CONFIG)
    train_here(run)
    kept = ("status.json", "summary.json", "metrics.jsonl", "pairs_scored.jsonl")
    before = {name: (run / name).read_bytes() for name in kept}
    (run / "preflight.json").unlink()
    assert main([str(run), "--check"]) == 0
    assert {name: (run / name).read_bytes() for name in kept} == before
    assert read_json(run / "preflight.json")["phases"][0]["steps"] == 24


def test_check_measures_without_reference_or_status(make_run, capsys):
    run = make_run(**CONFIG)
    assert main([str(run), "--check"]) == 0
    assert not list(run.glob("reference/*.safetensors"))
    assert not (run / "status.json").exists() and (run / "preflight.json").exists()
    said = capsys.readouterr().err
    assert "of memory" in said and "warning: Few pairs to train on: 6" in said
    (run / "pairs.jsonl").write_text('{"prompt": "x", "chosen": 1, "rejected": ""}')
    assert main([str(run), "--check"]) == 1
    assert "pairs.jsonl line 1" in capsys.readouterr().err.splitlines()[-1]


def full_disk(monkeypatch, folder, free):
    usage = shutil.disk_usage(folder)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_disk_too_small_for_the_run_is_said_before_training(make_run, monkeypatch):
    run = make_run(**CONFIG)
    full_disk(monkeypatch, run, 1000)
    with pytest.raises(
        TrainerError, match="The disk has 0.0 MB free, but the run wants"
    ):
        train_here(run)
    assert not (run / "metrics.jsonl").exists()
    assert main([str(run), "--check"]) == 1


def test_a_disk_that_the_preflight_finds_large_enough_is_so_to_the_end(
    make_run, monkeypatch
):
    """It counted a checkpoint being written once, which itself wants more room than
    that: the third of a run was refused on a disk that had been found to do."""
    # A rank at which weights are more than their names, as in any real run.
    config = CONFIG | {"epochs": 6, "save_steps": 1, "lora": {"r": 64}}
    run = make_run(**config)
    assert main([str(run), "--check"]) == 0
    wanted = read_json(run / "preflight.json")["disk"]["wanted_bytes"]
    there, held = shutil.disk_usage(run), []

    def usage(path):
        # Just enough at the first look, which is the pre-flight's.
        held.append(bytes_in(run))
        return there._replace(free=wanted + held[0] - held[-1])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    train_here(run)
    assert read_json(run / "summary.json")["steps"] > 3


def bytes_in(folder):
    """Of all files below it; one may be renamed while they are counted."""
    sizes = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)


def test_a_disk_that_filled_up_meanwhile_keeps_the_training(make_run, monkeypatch):
    run = make_run(**CONFIG)
    checked = preflight.check_room

    def filled(at):
        full_disk(monkeypatch, run, 1000)
        checked(at)

    with monkeypatch.context() as patched:
        patched.setattr("training.dpo.run.check_room", filled)
        with pytest.raises(TrainerError, match="training is done and kept"):
            train_here(run)
    assert not (run / "adapter").exists()


def test_a_loss_that_is_no_number_is_explained_and_the_checkpoint_kept(
    make_run, monkeypatch
):
    """At a rate of 1e25 the first step moves the weights out of every range, the second
    has no number. The minute after which a run saves by itself is over at once."""
    monkeypatch.setattr("training.dpo.train.SAVE_SECONDS", 0)
    run = make_run(batch_size=6, epochs=5, warmup_ratio=0, learning_rate=1e25)
    with pytest.raises(TrainerError) as failure:
        train_here(run)
    said = str(failure.value)
    assert "of step 2 is not a finite number; nothing of that step was kept" in said
    assert "Pairs: " in said and "(line " in said
    assert "learning rate of the step 8e+24" in said
    assert "the weights have run away" in said
    assert "Lower learning_rate (now 1e+25)" in said and "goes on from step 1" in said
    assert read_json(run / "status.json")["state"] == "failed"


def test_a_run_may_go_on_at_a_lower_rate(make_run):
    from tests.training.dpo.test_resume import StopAfter
    from training.dpo.errors import Stopped
    from training.dpo.run import run_folder

    run = make_run(**CONFIG)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(14))
    config = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps(config | {"learning_rate": 1e-5}))
    train_here(run)
    assert read_json(run / "status.json")["state"] == "done"
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert max(row["learning_rate"] for row in rows[10:]) <= 1e-5
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("key", ["learning_rate", "max_grad_norm", "sft_learning_rate"])
def test_another_rate_for_steps_that_are_done_is_refused(key, make_run):
    """It trained nothing, ended as done, and summary.json told the new rate as the run's."""
    run = make_run(batch_size=6, epochs=2, sft_epochs=1)
    train_here(run)
    summary = (run / "summary.json").read_text()
    config = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps(config | {key: 0.0625}))
    with pytest.raises(
        TrainerError, match=f'"{key}" is now 0.0625, .* fresh run folder'
    ):
        train_here(run)
    assert (run / "summary.json").read_text() == summary
    (run / "config.json").write_text(json.dumps(config))
    train_here(run)  # put back: it ends as it did

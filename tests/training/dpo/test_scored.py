"""What single pairs tell: scored rows, doubtful ones, start against end."""

import math
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.dpo.runs import PAIRS, chat, read_json, read_rows, train_here
from training.dpo.data import Pair
from training.dpo.scored import (
    ACCURACY,
    held_out_intervals,
    held_out_line,
    held_out_report,
    most_doubtful,
)

HELD_OUT = [
    chat("How do I boil water?", "1. water 2. time", "I do not know.", id="water"),
    chat("How do I boil water?", "1. water 2. salt", "No.", id="again"),
    chat("水?", "1. 水 2. 水", "不知道。", id="水", weight=3.0),
    chat("Time?", "1. wait", "I do not know.", id="time"),
]
CONFIG = {
    **{"batch_size": 2, "epochs": 8, "learning_rate": 1e-3, "warmup_ratio": 0},
    # each step, and still the figures of the start must not be lost
    "eval_steps": 1,
}
ENDS = ("rewards/margins", "loss", ACCURACY)


def test_the_ten_clearest_of_those_ranked_the_wrong_way_round_are_named():
    rows = [
        {"id": str(i), "line": i, "margin": margin, "right": 0.0}
        for i, margin in enumerate([0.5, -1.0, 0.0, -3.0, None, *[-0.1] * 12], start=1)
    ]
    found = most_doubtful(rows)
    assert [row["id"] for row in found[:3]] == ["4", "2", "6"] and len(found) == 10
    assert found[0] == {"id": "4", "line": 4, "margin": -3.0}
    assert most_doubtful(rows[:1]) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory, base_model):
    from tests.training.dpo.runs import write_run

    folder = tmp_path_factory.mktemp("scored") / "run"
    train_here(write_run(folder, base_model, held_out=HELD_OUT, **CONFIG))
    return folder


def test_held_out_pairs_are_kept_with_their_start(run):
    """At the start the policy is its reference: ties, ln 2; every margin 0."""
    rows = read_rows(run / "held_out_scored.jsonl")
    assert [row["id"] for row in rows] == ["water", "again", "水", "time"]
    for row in rows:
        assert row["right_at_start"] == 0.5 and row["margin_at_start"] == 0
        assert row["loss_at_start"] == pytest.approx(math.log(2))
        assert row["right"] == (1.0 if row["margin"] > 0 else 0.0)


def test_ties_count_half_beside_the_strict_figure(run):
    first = read_rows(run / "metrics.jsonl")[0]
    assert first["eval_rewards/accuracies"] == 0
    assert first["eval_rewards/accuracies_ties_half"] == 0.5


def test_the_last_evaluation_has_intervals_and_the_summary_the_difference(run):
    """Loss weighs the third pair thrice: (l1 + l2 + 3 l3 + l4) / 6."""
    rows = read_rows(run / "held_out_scored.jsonl")
    last = read_rows(run / "metrics.jsonl")[-1]
    held_out = read_json(run / "summary.json")["held_out"]
    assert (held_out["pairs"], held_out["prompts"]) == (4, 3)
    weights = [1, 1, 3, 1]
    weighed = sum(w * r["loss"] for w, r in zip(weights, rows, strict=True)) / 6
    assert last["eval_loss"] == pytest.approx(weighed)
    for name in ("loss", "rewards/margins", ACCURACY):
        low, high = last[f"eval_{name}/low"], last[f"eval_{name}/high"]
        assert low <= last[f"eval_{name}"] <= high
        assert held_out["end"][f"{name}/low"] == low
        gain = held_out["difference"][name]
        assert gain["value"] == pytest.approx(
            held_out["end"][name] - held_out["start"][name]
        )
        assert gain["low"] <= gain["value"] <= gain["high"]
    assert held_out["difference"]["rewards/margins"]["low"] > 0


def test_intervals_go_by_prompt_and_the_losss_by_weight_too():
    """Two prompts, one with two pairs. Both draws of one prompt come up one time in four,
    so the ends are the prompts' own means: of margins (2 + 4) / 2 and 1, of losses, where
    the first pair weighs 3, (3 · 0 + 1) / 4 and 0.5."""
    pairs = [Pair(str(n), n, [ids], [1], [2]) for n, ids in enumerate([7, 7, 8])]
    figures = SimpleNamespace(
        indexes=[0, 1, 2],
        margins=[2.0, 4.0, 1.0],
        losses=[0.0, 1.0, 0.5],
        right=[1.0, 1.0, 0.0],
        weights=[3.0, 1.0, 1.0],
    )
    found = held_out_intervals(pairs, figures)
    ends = {name: (found[f"{name}/low"], found[f"{name}/high"]) for name in ENDS}
    assert ends == {
        "rewards/margins": pytest.approx((1.0, 3.0)),
        "loss": pytest.approx((0.25, 0.5)),
        ACCURACY: pytest.approx((0.0, 1.0)),
    }


def test_the_end_says_accuracy_with_its_interval_and_drift(run):
    line = held_out_line(read_json(run / "summary.json")["held_out"])
    assert line.startswith(
        "held out, 4 pairs of 3 prompts: accuracy 1.00 (0.29 to 1.00)"
    )
    assert "drift from the base, log-ratio per token: chosen +" in line


def test_the_summary_says_what_goes_to_tokens_that_the_base_hardly_writes(
    run, base_model
):
    """As transformers' and PEFT's own logits have it, along the chosen answers."""
    base, other = (AutoModelForCausalLM.from_pretrained(base_model) for _ in "ab")
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    policy = PeftModel.from_pretrained(other, run / "adapter")
    found = {"policy": [], "base": []}
    for row in HELD_OUT:
        prompt, whole = (
            tokenizer.apply_chat_template(
                messages, add_generation_prompt=asks, return_dict=True
            )["input_ids"]
            for messages, asks in (
                (row["prompt"], True),
                (row["prompt"] + row["chosen"], False),
            )
        )
        with torch.no_grad():
            shares = [
                model(torch.tensor([whole])).logits[0, len(prompt) - 1 : -1].softmax(-1)
                for model in (policy, base)
            ]
        unlikely = shares[1] < 1e-3
        found["policy"] += (shares[0] * unlikely).sum(-1).tolist()
        found["base"] += (shares[1] * unlikely).sum(-1).tolist()
    told = read_json(run / "summary.json")["held_out"]["unlikely/chosen"]
    wanted = {name: sum(values) / len(values) for name, values in found.items()}
    assert told == pytest.approx(wanted, rel=1e-4)
    assert told["policy"] > told["base"] > 0.01


def test_evaluations_of_another_run_give_no_difference(run, tmp_path):
    """A start that metrics.jsonl does not know of is not compared with."""
    ends = {k: read_json(run / "summary.json")["held_out"][k] for k in ("start", "end")}
    rows = read_rows(run / "held_out_scored.jsonl")
    pairs = [Pair(row["id"], row["line"], [i], [1], [2]) for i, row in enumerate(rows)]
    ends["start"] = ends["start"] | {"rewards/margins": 0.25}
    assert held_out_report(run, pairs, ends)["difference"] is None
    assert held_out_report(run, pairs[:3], ends)["difference"] is None


def test_the_start_of_a_phase_of_one_step_is_known_after_a_resume(make_run):
    """Its only line in metrics.jsonl has the figures of the end."""
    run = make_run(held_out=PAIRS[:2], epochs=1, batch_size=6, learning_rate=1e-2)
    train_here(run)
    told = read_json(run / "summary.json")["held_out"]
    assert told["start"]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert told["difference"]["loss"]["value"] < -1e-4
    train_here(run)
    assert read_json(run / "summary.json")["held_out"] == told


def test_a_run_without_held_out_pairs_says_nothing_of_them(make_run):
    alone = make_run(epochs=1, batch_size=3)
    train_here(alone)
    assert read_json(alone / "summary.json")["held_out"] is None
    assert not (alone / "held_out_scored.jsonl").exists()


def test_pairs_the_policy_still_ranks_the_wrong_way_round_are_in_the_summary(make_run):
    """One of three equal pairs is the wrong way round: it is outvoted."""
    good = PAIRS[0]
    slip = good | {"chosen": good["rejected"], "rejected": good["chosen"], "id": "slip"}
    mixed = make_run(
        pairs=[good | {"id": "a"}, slip, good | {"id": "b"}, *PAIRS[2:5]],
        batch_size=2,
        epochs=8,
        learning_rate=1e-3,
    )
    train_here(mixed)
    doubtful = read_json(mixed / "summary.json")["look_at_first"]
    assert [(row["id"], row["line"]) for row in doubtful] == [("slip", 2)]

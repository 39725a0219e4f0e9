"""Each caution once where it is due, and silent just beside that."""

import pytest
import torch

from training.dpo.config import LoraConfig, TrainingConfig, parse_config
from training.dpo.data import Answer, Pair, RowReport
from training.dpo.defaults import settle
from training.dpo.guardrails import (
    config_cautions,
    curve_cautions,
    data_cautions,
    held_out_cautions,
    lines_words,
    memory_cautions,
)
from training.dpo.loss import objective_of, pair_losses
from training.dpo.loss_inputs import PairLogps

SFT_RATE = "sft_learning_rate_unusual"


def codes(cautions):
    """The codes; each sentence must come out whole."""
    assert all("%(" not in caution.text for caution in cautions)
    return [caution.code for caution in cautions]


# --- Config ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "parameters", "due"),
    [
        ({}, 2_000_000, []),
        ({"beta": 0.01}, 2_000_000, []),
        ({"beta": 0.001}, 2_000_000, ["beta_unusual"]),
        ({"beta": 5}, 2_000_000, ["beta_unusual"]),
        ({"beta": 5, "loss": "sigmoid_norm"}, 2_000_000, []),
        ({"loss": "sigmoid_norm"}, 2_000_000, ["beta_unusual"]),
        ({"loss": "simpo", "beta": 2}, 2_000_000, []),
        ({"loss": "simpo"}, 2_000_000, ["beta_unusual"]),
        ({"loss": "ipo", "beta": 1}, 2_000_000, []),
        ({"loss": "hinge", "beta": 3}, 2_000_000, ["beta_unusual"]),
        ({"loss": "orpo", "beta": 0.1}, 2_000_000, []),
        ({"loss": "kto", "beta": 3}, 2_000_000, ["beta_unusual"]),
        ({"loss": {"sigmoid": 1, "sft": 0.2}}, 2_000_000, []),
        # LoRA: 5e-4 on the starter, 2e-5 on 7 billion; ten times either way
        ({"learning_rate": 4e-3}, 2_000_000, []),
        ({"learning_rate": 6e-3}, 2_000_000, ["learning_rate_unusual"]),
        ({"learning_rate": 4e-5}, 2_000_000, ["learning_rate_unusual"]),
        ({"learning_rate": 4e-5}, 7_000_000_000, []),
        ({"learning_rate": 5e-4}, 7_000_000_000, ["learning_rate_unusual"]),
        # full: 1e-6 on 7 billion
        ({"learning_rate": 5e-7, "tuning": "full"}, 7_000_000_000, []),
        (
            {"learning_rate": 2e-5, "tuning": "full"},
            7_000_000_000,
            ["learning_rate_unusual"],
        ),
        # supervised: 1e-3 on the starter; no matter where nothing of it is done
        ({"sft_learning_rate": 0.011, "sft_epochs": 1}, 2_000_000, [SFT_RATE]),
        ({"sft_learning_rate": 9e-5, "sft_epochs": 1}, 2_000_000, [SFT_RATE]),
        ({"sft_learning_rate": 9e-3, "sft_epochs": 1}, 2_000_000, []),
        ({"sft_learning_rate": 0.011}, 2_000_000, []),
    ],
)
def test_beta_and_learning_rate_have_usual_ranges(config, parameters, due):
    config = TrainingConfig("m", **config)
    settled = settle(config, parameters, 100)
    assert codes(config_cautions(config, settled, parameters)) == due


def test_lora_settings_that_do_nothing_are_named():
    """No error: a sweep over `tuning` gives both kinds the same ones."""
    lora = LoraConfig(r=4, dropout=0.1)
    for tuning in ("lora", "qlora", "full"):
        config = TrainingConfig("m", tuning=tuning, lora=lora)
        said = config_cautions(config, settle(config, 2_000_000, 100), 2_000_000)
        assert [
            caution.values for caution in said if caution.code == "lora_unused"
        ] == ([{"names": "lora.r, lora.dropout"}] if tuning == "full" else [])


# --- Rows ------------------------------------------------------------------------------


def pairs_of(count, first_prompt=0):
    """Pairs of different prompts with different answers."""
    return [
        Pair(str(i), i + 1, [first_prompt + i], [1, i], [2, i]) for i in range(count)
    ]


def about_data(pairs=None, held_out=None, reports=None, updates=100, **phases):
    updates = phases | {"dpo": updates}
    held_out = pairs_of(30, 1000) if held_out is None else held_out
    found = data_cautions(pairs or pairs_of(20), held_out, reports or {}, 64, updates)
    return {caution.code: caution.text for caution in found}


def test_sound_data_gives_no_caution():
    report = RowReport(read=100, used=96, cut={"chosen cut": [1, 2]})
    report.dropped = {"its weight is 0": [5, 6, 7, 8, 9]}
    assert about_data(reports={"pairs.jsonl": report}) == {}


def test_too_few_pairs_updates_and_held_out_prompts_are_said():
    assert "few_pairs" in about_data(pairs_of(14))
    assert "few_pairs" not in about_data(pairs_of(15))
    assert "few_updates" in about_data(updates=49)
    assert "few_updates" not in about_data(updates=50)
    said = about_data(sft=49)
    assert list(said) == ["few_sft_updates"] and "raise sft_epochs" in said.popitem()[1]
    assert not about_data(sft=50)
    assert list(about_data(held_out=[])) == ["no_held_out"]
    # 98 / sqrt(16) = 24.5 points, rounded to even
    few = about_data(held_out=pairs_of(16, 1000))
    assert "some 24 percentage points" in few["few_held_out"]
    # two pairs of a prompt are one prompt
    assert "few_held_out" in about_data(held_out=pairs_of(29, 1000) * 2)


def test_many_cut_or_dropped_rows_are_said():
    """A row cut on both sides is one row: 6 of 100."""
    report = RowReport(read=100)
    report.cut = {"chosen cut": [1, 2, 3, 4, 5], "rejected cut": [5, 6]}
    report.dropped = {"its weight is 0": [1, 2, 3], "too long": [4, 5, 6]}
    said = about_data(reports={"pairs.jsonl": report})
    assert said["many_cut"].startswith("6 of 100 rows of pairs.jsonl lose")
    assert said["many_dropped"].startswith("6 of 100 rows of pairs.jsonl are dropped")


def test_equal_repeated_and_contradicting_pairs_are_named_by_line():
    pairs = pairs_of(20)
    odd = [
        Pair("same", 21, [1], [7], [7]),
        Pair("again", 22, [3], [1, 3], [2, 3]),
        Pair("other way round", 23, [4], [2, 4], [1, 4]),
    ]
    said = about_data(pairs + odd)
    assert "the same tokens: 1 (lines: 21)" in said.pop("identical_answers")
    assert "(lines: 22)" in said.pop("duplicates")
    assert "(lines: 23)" in said.pop("contradictions")
    assert not said
    # the same answers to another prompt are nothing odd
    assert not about_data([*pairs, Pair("x", 21, [99], [1, 3], [2, 3])])


def answers_of(*rows):
    """Labelled answers (line, prompt, answer, label), each with one and the same stray."""
    return [
        Answer(str(n), line, prompt, ids, [9], label=label)
        for n, (line, prompt, ids, label) in enumerate(rows)
    ]


def test_labelled_answers_are_compared_by_label_not_by_their_strays():
    """ "Yes." to four prompts, with "Yes." as stray, is nothing odd; the same prompt and
    answer under both labels is a contradiction, under one label a repeat."""
    fine = [(n, [n], [9], n % 2 == 0) for n in range(1, 21)]
    assert not about_data(answers_of(*fine))
    said = about_data(answers_of(*fine, (21, [1], [9], True), (22, [2], [9], True)))
    assert "(lines: 21)" in said.pop("contradictions")
    assert "(lines: 22)" in said.pop("duplicates")
    assert not said
    # pairs taken apart: line 21 with equal answers, line 23 as line 22
    apart = [(21, [30], [7], True), (21, [30], [7], False)]
    apart += [(22, [31], [7], True), (22, [31], [8], False)]
    apart += [(23, [31], [7], True), (23, [31], [8], False)]
    said = about_data(answers_of(*fine, *apart))
    assert "the same tokens: 1 (lines: 21)" in said.pop("identical_answers")
    assert "earlier one: 1 (lines: 23)" in said.pop("duplicates")
    assert not said


@pytest.mark.parametrize(("label", "told"), [(True, "true"), (False, "false")])
def test_labelled_answers_of_one_kind_are_said(label, told):
    rows = [(n, [n], [n, 7], label) for n in range(1, 21)]
    said = about_data(answers_of(*rows))
    assert said.pop("one_label").startswith(
        f"All labelled answers, 20, have the label {told}:"
    )
    assert not said
    rows[3] = (4, [4], [4, 7], not label)
    assert not about_data(answers_of(*rows))


def test_held_out_prompts_that_also_train_are_named_by_line():
    held_out = [*pairs_of(30, 1000), Pair("x", 31, [4], [50], [51])]
    assert (
        "(lines of held_out.jsonl: 31)"
        in about_data(held_out=held_out)["held_out_leak"]
    )


def test_many_lines_are_cut_short():
    assert lines_words([3]) == "3"
    assert lines_words([3, 7]) == "3, 7"
    assert lines_words(range(1, 13)) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …"


def test_memory_is_warned_of_near_its_end_only():
    assert codes(memory_cautions(91, 100)) == ["memory"]
    assert not memory_cautions(90, 100) and not memory_cautions(None, 100)


# --- Curves ----------------------------------------------------------------------------


def curve(steps=40, **of_step):
    """Lines whose named figures are functions of done / steps."""
    usual = {
        "loss": lambda t: 0.693 - 0.4 * t,
        "rewards/margins": lambda t: 1.5 * t,
        "rewards/accuracies": lambda t: 0.5 + 0.4 * t,
        "drift/chosen": lambda t: 0.02 * t,
        "drift/rejected": lambda t: -0.2 * t,
        "learning_rate": lambda t: 1e-4,
        "grad_norm": lambda t: 0.5,
        "epoch": lambda t: 4 * t,
    }
    return [
        {"step": step} | {k: f(step / steps) for k, f in (usual | of_step).items()}
        for step in range(1, steps + 1)
    ]


def about(rows, first=0, last=40, prompts=30, **config):
    found = curve_cautions(rows, TrainingConfig("m", **config), first, last, prompts)
    return {caution.code: caution.text for caution in found if codes([caution])}


FLAT = {"loss": lambda t: 0.6935, "rewards/margins": lambda t: 0.001}


def test_a_sound_curve_gives_no_caution():
    assert about(curve()) == {}
    assert about(curve()[:3]) == {}


def test_a_loss_that_stays_at_ln_2_is_said_after_warm_up_and_a_third():
    """40 steps, 4 of warm-up: 16 steps and at least 20."""
    said = about(curve(**FLAT))["stuck"]
    assert "At step 40 of 40 the loss is still 0.6935" in said and "(0.0001)" in said
    assert "stuck" in about(curve(**FLAT)[:20])
    assert about(curve(**FLAT)[:19]) == {}
    # a run of 400 steps is not judged by its first 100
    assert about(curve(400, **FLAT)[:100], last=400) == {}
    # after 40 steps of supervised training, 19 of DPO
    later = [row | {"step": row["step"] + 40} for row in curve(**FLAT)]
    assert about(later[:19], first=40, last=80) == {}
    assert "At step 80 of 80" in about(later, first=40, last=80)["stuck"]
    # margin 0.03: it moves
    assert about(curve(**FLAT | {"rewards/margins": lambda t: 0.03})) == {}
    # IPO starts elsewhere: its margin alone counts, up to 0.2 nats times beta
    assert "stuck" in about(curve(**FLAT | {"loss": lambda t: 25.0}), loss="ipo")
    assert about(curve(**FLAT | {"rewards/margins": lambda t: 0.03}), loss="ipo") == {}
    # without a reference a small margin is no sign
    assert about(curve(**FLAT), loss="orpo") == {}


@pytest.mark.parametrize(
    ("loss", "start", "more"),
    [
        ("sigmoid", 0.6931, {"label_smoothing": 0.1}),
        ({"sigmoid": 2.0}, 1.3863, {}),
        ("bco_pair", 1.3863, {}),
        # ½ ln(½ / 0.999) + ½ ln(½ / 0.001) = −0.3461 + 3.1073
        ("exo_pair", 2.7612, {"label_smoothing": 0.001}),
        ({"aot": 0.5, "bco_pair": 1.0}, 1.7329, {}),
    ],
)
def test_a_loss_is_stuck_where_it_starts(loss, start, more):
    """The margin 0.001 alone would not do: a loss that left its start has moved."""
    config = {"loss": loss, **more}
    parsed = parse_config({"base_model": "m", **config})
    logps = PairLogps(*[torch.zeros(4)] * 6, *[torch.ones(4)] * 4)
    objective = objective_of(parsed)
    own = pair_losses(objective.weights, logps, objective.settings).mean().item()
    assert own == pytest.approx(start, abs=1e-4)
    assert "stuck" in about(curve(**FLAT | {"loss": lambda t: start}), **config)
    assert about(curve(**FLAT | {"loss": lambda t: start - 0.03}), **config) == {}


def test_both_answers_becoming_unlikely_is_said_and_one_is_not():
    """Means over the first and last four steps lie 36/40 apart: exp(−0.5 · 0.9) = 0.64
    and exp(−0.8 · 0.9) = 0.49; a chosen drift of −0.3 · 0.9 is not enough."""
    falling = {
        "drift/chosen": lambda t: -0.5 * t,
        "drift/rejected": lambda t: -0.8 * t,
    }
    said = about(curve(**falling))["displacement"]
    assert (
        "chosen answer is now 0.64 times" in said and "rejected one 0.49 times" in said
    )
    assert about(curve(**falling | {"drift/chosen": lambda t: -0.3 * t})) == {}
    # what a parent adapter had lost before counts for nothing
    assert about(curve(**{k: lambda t: -2.0 for k in falling})) == {}


def test_margins_without_gradient_left_are_said():
    large = {"rewards/margins": lambda t: 12 * t, "rewards/accuracies": lambda t: 1.0}
    said = about(curve(**large))["saturated"]
    assert "mean margin is 11.6 with 100 % of the pairs" in said
    assert about(curve(**large | {"rewards/margins": lambda t: 8 * t})) == {}
    assert about(curve(**large), loss="ipo") == {}


def evaluated(rows, losses):
    """Held-out losses at evenly spread steps, the last at the last."""
    for place, loss in enumerate(losses, start=1):
        rows[len(rows) * place // len(losses) - 1]["eval_loss"] = loss
    return rows


def test_a_held_out_loss_that_rises_while_training_falls_is_said():
    said = about(evaluated(curve(), [0.69, 0.6, 0.62, 0.66]))["overfit"]
    assert "lowest at step 20 (0.600) and is 0.660 at step 40" in said
    assert "about 2)" in said
    assert about(evaluated(curve(), [0.69, 0.6, 0.62, 0.64])) == {}
    assert about(evaluated(curve(), [0.6, 0.69])) == {}
    # one prompt scatters √30 = 5.5 times as far as thirty: by 0.27
    few = [0.69, 0.6, 0.62, 0.86], [0.69, 0.6, 0.62, 0.88]
    found = [about(evaluated(curve(), losses), prompts=1) for losses in few]
    assert [bool(of) for of in found] == [False, True]
    # training is no better either: not learned by heart
    rising = curve(loss=lambda t: 0.6 + 0.1 * t)
    assert about(evaluated(rising, [0.69, 0.6, 0.62, 0.66])) == {}


def test_held_out_accuracy_that_fell_beyond_chance_is_said():
    name = "rewards/accuracies_ties_half"
    held_out = {
        "start": {name: 0.6},
        "end": {name: 0.5},
        "difference": {name: {"value": -0.1, "low": -0.15, "high": -0.05}},
    }
    (caution,) = held_out_cautions(held_out)
    assert caution.code == "held_out_worse" and "from 60 % to 50 %" in caution.text
    held_out["difference"][name]["high"] = 0.01
    assert not held_out_cautions(held_out) and not held_out_cautions(None)


def test_a_policy_that_writes_what_the_base_does_not_is_said():
    """Four times the base's share and half a percent more, both."""

    def said(policy, base):
        held_out = {"unlikely/chosen": {"policy": policy, "base": base}}
        return [caution.text for caution in held_out_cautions(held_out)]

    (text,) = said(0.0387, 0.00394)
    assert text.startswith("The policy may write broken sentences")
    assert "3.9 % of its probability" in text and "(of the base's own: 0.39 %)" in text
    assert not said(0.0091, 0.00394)  # more than half a percent more, but 2.3 times
    assert not said(0.005, 0.001)  # five times, but 0.4 percent more
    assert said(0.006, 0.0009)
    assert not held_out_cautions({"unlikely/chosen": None})

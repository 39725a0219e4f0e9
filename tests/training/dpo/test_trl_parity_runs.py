"""Whole runs beside TRL's own: twenty steps with their optimizer, schedule, clipping and
evaluation, each side going its own way from the same start (see `trl_oracle.py`).
"""

import peft
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer, KTOConfig, KTOTrainer

from tests.training.dpo.runs import PAIRS, read_rows
from tests.training.dpo.trl_oracle import (
    RUN_KEYS,
    STEP_KEYS,
    apart,
    assert_same_metrics,
    assert_same_steps,
    logged,
    our_run,
    our_step,
    trl_config,
    trl_dpo,
    watched,
    with_adapter,
)
from training.dpo.evaluate import evaluate_held_out
from training.dpo.train import train

ACCURACIES = {"rewards/accuracies", "mean_token_accuracy"}
"""KTOTrainer logs none."""

PLANS = {
    "linear": {"epochs": 10, "batch_size": 3},
    "cosine, warmed up, decayed": {
        "epochs": 10,
        "batch_size": 3,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.2,
        "weight_decay": 0.1,
    },
    "constant after a warm-up, clipped hard, uneven epochs": {
        "epochs": 10,
        "batch_size": 4,
        "lr_scheduler": "constant",
        "warmup_ratio": 0.13,
        "max_grad_norm": 0.05,
    },
    "not clipped, part of an epoch, another beta": {
        "epochs": 4.5,
        "batch_size": 1,
        "max_grad_norm": None,
        "beta": 0.4,
    },
}


@pytest.mark.parametrize("plan", PLANS)
def test_twenty_steps_go_where_trls_go(plan, family, adapter_of, tmp_path):
    """Errors of rounding grow along the way: ten times what a step is allowed."""
    config = PLANS[plan]
    made_of = (family("llama"), adapter_of("llama"), PAIRS)
    trainer = trl_dpo(*made_of, tmp_path / "trl", **config)
    trainer.train()
    run = our_run(*made_of, tmp_path / "run", **config)
    train(run)

    theirs, ours = logged(trainer), read_rows(run.log.path)
    assert len(ours) == len(theirs) >= 20
    for mine, other in zip(ours, theirs, strict=True):
        beta = run.objective.settings.beta
        assert_same_metrics(mine, other, RUN_KEYS, beta, looser=10)
    named = dict(trainer.model.named_parameters())
    start = trainer.passes[0].weights
    moved = {name: run.parameters[name].detach() - start[name] for name in start}
    wanted = {name: named[name].detach() - start[name] for name in start}
    assert apart(moved, wanted) <= 1e-4
    assert set(theirs[0]) - {"step"} == RUN_KEYS


def test_where_rounding_grows_trl_is_as_far_from_itself(family, adapter_of, tmp_path):
    """APO-zero at a high rate, twenty steps: each one is TRL's from equal weights, and
    yet the two ways part by a hundred times what a step may differ. So do two of TRL's
    own whose starts differ by 1e-7, which is what float32 tells apart."""
    made_of = (family("llama"), adapter_of("llama"), PAIRS)
    config = {"loss": "apo_zero", "learning_rate": 0.03, "epochs": 10, "batch_size": 3}
    margins = {}
    for name in ("as it is", "moved"):
        trainer = trl_dpo(*made_of, tmp_path / name, **config)
        if name == "moved":
            torch.manual_seed(0)
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data *= 1 + 1e-7 * torch.randn_like(parameter)
        trainer.train()
        margins[name] = [line["rewards/margins"] for line in logged(trainer)]
        if name == "as it is":
            run = our_run(*made_of, tmp_path / "run", **config)
            assert_same_steps(trainer, run)
            with torch.no_grad():
                for weight, start in trainer.passes[0].weights.items():
                    run.parameters[weight].copy_(start)
                    run.parameters[weight].grad = None
    train(run)
    margins["ours"] = [line["rewards/margins"] for line in read_rows(run.log.path)]

    def far(name):
        pairs = zip(margins[name], margins["as it is"], strict=True)
        return max(abs(one - other) for one, other in pairs)

    assert 1e-3 < far("ours") < 10 * far("moved")


def test_the_adapter_that_a_run_starts_from_can_be_the_reference(
    family, adapter_of, tmp_path
):
    """TRL's way when it is given a trained adapter: log-ratios begin at 0."""
    made_of = (family("llama"), adapter_of("llama"), PAIRS)
    config = {"reference": "start", "epochs": 2, "batch_size": 3}
    trainer = trl_dpo(*made_of, tmp_path / "trl", **config)
    trainer.train()
    run = our_run(*made_of, tmp_path / "run", **config)
    assert_same_steps(trainer, run)
    first = logged(trainer)[0]
    assert first["rewards/margins"] == 0 and first["loss"] == pytest.approx(0.6931472)


def test_a_fresh_adapter_is_drawn_as_trls(family, tmp_path):
    """The same seed gives the same A; B is 0 on both sides, so A's first gradient is."""
    base = family("qwen2")
    config = {"epochs": 2, "batch_size": 3, "seed": 7}
    run = our_run(base, None, PAIRS, tmp_path / "run", lora={"r": 4}, **config)
    names = sorted({name.split(".")[-4] for name in run.parameters})
    trainer = watched(DPOTrainer)(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=trl_config(tmp_path / "trl", **config),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=names
        ),
    )
    trainer.train()
    start = trainer.passes[0].weights
    assert all(torch.equal(run.parameters[name], start[name]) for name in start)
    assert_same_steps(trainer, run)


def test_micro_batches_of_one_size_sum_to_trls_step(family, adapter_of, tmp_path):
    """Three micro-batches of two pairs a step. What is averaged over tokens is averaged
    over micro-batches there and over the step here, so those keys are left out."""
    made_of = (family("llama"), adapter_of("llama"), PAIRS)
    accumulated = {"gradient_accumulation_steps": 3}
    trainer = trl_dpo(*made_of, tmp_path / "trl", batch_size=2, trl=accumulated)
    trainer.train()
    run = our_run(*made_of, tmp_path / "run", batch_size=6, micro_batch_size=2)
    last = trainer.passes[-1]
    ours = our_step(run, range(6), last.weights)
    assert apart(ours.gradients, last.gradients) <= 1e-4
    tokenwise = {"logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy"}
    (line,) = logged(trainer)
    assert_same_metrics(ours.figures.metrics(), line, STEP_KEYS - tokenwise)


def test_answers_with_labels_go_where_trls_go(family, adapter_of, tmp_path):
    """KTO, steps of four and two answers: each is measured against the strays of its
    own batch, in the last one and in later epochs too."""
    base, adapter = family("llama"), adapter_of("llama")
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row, side in zip(PAIRS, ["chosen", "chosen", "rejected"] * 2, strict=True)
    ]
    config = {"loss": "kto", "epochs": 3, "desirable_weight": 0.7}
    trainer = KTOTrainer(
        model=with_adapter(base, adapter),
        ref_model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=trl_config(tmp_path / "trl", KTOConfig, **config),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    trainer.train()
    run = our_run(base, adapter, rows, tmp_path / "run", **config)
    train(run)
    ours, theirs = read_rows(run.log.path), logged(trainer)
    assert set(theirs[0]) - {"step"} == RUN_KEYS - ACCURACIES | {"kl"}
    assert min(line["kl"] for line in theirs) > 1
    for mine, other in zip(ours, theirs, strict=True):
        keys = RUN_KEYS - ACCURACIES | {"kl"}
        assert_same_metrics(mine, other, keys, run.config.beta, looser=10)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_held_out_figures_are_trls(name, family, adapter_of, tmp_path):
    """From equal weights, before the first step, and after the last one more loosely;
    one batch on TRL's side."""
    made_of = (family(name), adapter_of(name), PAIRS[:4])
    config = {"held_out": PAIRS[2:], "epochs": 2}
    trainer = trl_dpo(
        *made_of, tmp_path / "trl", trl={"per_device_eval_batch_size": 4}, **config
    )
    run = our_run(*made_of, tmp_path / "run", **config)
    assert_same_metrics(
        evaluate_held_out(run), trainer.evaluate(), STEP_KEYS, prefix="eval_"
    )
    trainer.train()
    train(run)
    after = read_rows(run.log.path)[-1]
    theirs = trainer.evaluate()
    assert_same_metrics(after, theirs, STEP_KEYS, looser=10, prefix="eval_")
    # Its clock, and what the line of the step says already.
    left_out = {f"eval_{key}_per_second" for key in ("samples", "steps")}
    left_out |= {"eval_runtime", "eval_num_tokens", "epoch"}
    assert set(theirs) - left_out == {f"eval_{key}" for key in STEP_KEYS}

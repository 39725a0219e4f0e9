"""Where the trainer differs from TRL 1.16 on purpose: each difference listed in
docs/trainer.md is really that one, and nothing else moves with it.
"""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.utils import create_model_from_path

from tests.training.dpo.families import build, build_adapter
from tests.training.dpo.runs import PAIRS, chat, read_json, write_rows
from tests.training.dpo.trl_oracle import (
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
from training.dpo.adapter import set_dropout
from training.dpo.base import load_base
from training.dpo.config import TrainingConfig
from training.dpo.data import read_pairs
from training.dpo.evaluate import evaluate_held_out


@pytest.fixture
def both(family, adapter_of, tmp_path):
    """`both(rows, **config)`: TRL's trainer, trained, and our run, prepared."""

    def make(rows, name="llama", ours=(), **config):
        made_of = (family(name), adapter_of(name))
        trainer = trl_dpo(*made_of, rows, tmp_path / "trl", **config)
        trainer.train()
        run = our_run(*made_of, rows, tmp_path / "run", **(config | dict(ours)))
        return trainer, run

    return make


def test_rows_that_are_dropped_or_cut_are_counted(both, tmp_path):
    """TRL trains on two rows of three and says nothing."""
    rows = [
        chat("Salt?", "1", "2"),
        chat("water " * 60, "dropped", "by both"),
        chat("Tea?", "no " * 60, "2"),
    ]
    trainer, run = both(rows)
    assert len(trainer.train_dataset) == len(run.data.pairs) == 2
    tokenizer = AutoTokenizer.from_pretrained(run.config.base_model)
    _, report = read_pairs(tmp_path / "run/pairs.jsonl", tokenizer, 60, 320)
    assert report.dropped == {"the prompt alone fills max_length": [2]}
    assert report.cut == {"chosen cut to max_length": [3]}


def test_every_row_is_looked_at(family, adapter_of, tmp_path):
    """The second row has no prompt: TRL, which looks at the first, breaks on it."""
    made_of = (family("llama"), adapter_of("llama"))
    rows = [
        {"prompt": "a ", "chosen": "salt", "rejected": "time"},
        {"chosen": "I do know", "rejected": "I do not"},
    ]
    with pytest.raises((TypeError, ValueError)):
        trl_dpo(*made_of, rows, tmp_path / "trl")
    run = our_run(*made_of, [*rows, PAIRS[0]], tmp_path / "run")
    assert len(run.data.pairs) == 3


def test_an_answer_of_no_token_drops_its_pair(family, tmp_path):
    """A template that prints contents alone: TRL trains against the empty answer."""
    base = build("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(base)
    adapter = build_adapter(base, tmp_path / "adapter")
    rows = [chat("Salt?", "yes", ""), chat("Tea?", "yes", "no")]
    trainer = trl_dpo(base, adapter, rows, tmp_path / "trl")
    assert [row["rejected_ids"] == [] for row in trainer.train_dataset] == [True, False]
    run = our_run(base, adapter, rows, tmp_path / "run")
    assert [pair.line for pair in run.data.pairs] == [2]


def test_two_answers_with_nothing_in_common_have_an_empty_prompt(
    family, adapter_of, tmp_path
):
    """TRL looks at the character before the first one: the last one. If that is a
    space, all but it becomes the prompt, and the chosen answer is what is left."""
    made_of = (family("llama2"), adapter_of("llama2"))
    rows = [{"chosen": "boil it ", "rejected": "tea"}]
    trainer = trl_dpo(*made_of, rows, tmp_path / "trl")
    assert trainer.train_dataset[0]["prompt"] == "boil it"
    run = our_run(*made_of, rows, tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(made_of[0])
    (pair,) = run.data.pairs
    assert pair.prompt_ids[0] == tokenizer.bos_token_id
    assert "boil it" in tokenizer.decode(pair.chosen_ids)


def test_without_an_end_of_text_token_texts_get_none(family, tmp_path):
    """TRL asks whether the answer ends with None."""
    rows = [{"prompt": "a", "chosen": " salt", "rejected": " time"}]
    write_rows(tmp_path / "pairs.jsonl", rows)
    tokenizer = AutoTokenizer.from_pretrained(family("llama"))
    tokenizer.eos_token = None
    (pair,), _ = read_pairs(tmp_path / "pairs.jsonl", tokenizer, 60, 320)
    assert tokenizer.decode(pair.chosen_ids) == " salt"
    with pytest.raises(TypeError):
        DPOTrainer._prepare_dataset(
            SimpleNamespace(_tokenizer=tokenizer),
            Dataset.from_list(rows),
            tokenizer,
            DPOConfig("unused", bf16=False, use_cpu=True),
            "train",
        )


@pytest.mark.parametrize(
    ("loss", "trainer_class", "config_class", "own"),
    [
        ("orpo", ORPOTrainer, ORPOConfig, {}),
        ("simpo", CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0}),
    ],
)
def test_simpo_and_orpo_take_the_tokens_that_every_loss_takes(
    loss, trainer_class, config_class, own, family, adapter_of, tmp_path, monkeypatch
):
    """TRL's older trainers end a rendered chat with one more end-of-text token, and cut
    prompt from answer for each answer by itself: "wait" and "er" make a token that
    "wait" and ", no" do not, so that there the rejected answer is one token shorter.
    Given those ids, its figures are ours."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    base, adapter = family("qwen2"), adapter_of("qwen2")
    end = AutoTokenizer.from_pretrained(base).eos_token_id
    merged = {"prompt": "wait", "chosen": "er", "rejected": ", no"}
    for place, row in enumerate([chat("Tea?", "I do", "no"), merged]):
        config = {"loss": loss, "batch_size": 1}
        trainer = watched(trainer_class)(
            model=with_adapter(base, adapter),
            args=trl_config(tmp_path / "trl", config_class, **config, trl=own),
            train_dataset=Dataset.from_list([row]),
            processing_class=AutoTokenizer.from_pretrained(base),
        )
        trainer.train()
        (line,), (taken,) = logged(trainer), trainer.train_dataset
        figures, told, of_theirs = {}, {}, {}
        for side in ("chosen", "rejected"):
            ids, asked = taken[f"{side}_input_ids"], taken[f"{side}_labels"].count(-100)
            told[side] = (ids[:asked], ids[asked:])
            names = ("prompt_ids", "chosen_ids", "rejected_ids")
            of_theirs[side] = dict(zip(names, (*told[side], ids[asked:]), strict=True))
        given = {"ours": row} | of_theirs
        for name, rows in given.items():
            folder = tmp_path / f"{place} {name}"
            run = our_run(base, adapter, [rows], folder, **config, reference="none")
            weights = trainer.passes[0].weights
            figures[name] = our_step(run, [0], weights).figures.metrics()
            if name == "ours":
                (pair,) = run.data.pairs
        for side in ("chosen", "rejected"):
            for key in (f"logps/{side}", f"rewards/{side}"):
                assert figures[side][key] == pytest.approx(line[key], rel=1e-5)
        differ = ["rejected"] if row is merged else ["chosen", "rejected"]
        for side, answer in zip(
            told, (pair.chosen_ids, pair.rejected_ids), strict=True
        ):
            prompt, its = told[side]
            theirs, key = line[f"logps/{side}"], f"logps/{side}"
            if side not in differ:
                assert (prompt, its) == (pair.prompt_ids, answer)
                assert figures["ours"][key] == pytest.approx(theirs, rel=1e-5)
                continue
            if row is merged:
                assert (prompt, its) == (pair.prompt_ids + answer[:1], answer[1:])
            else:
                assert (prompt, its) == (pair.prompt_ids, [*answer, end])
            assert abs(figures["ours"][key] - theirs) > 1e-3


def test_the_base_keeps_its_dtype_or_takes_the_one_it_is_given(base_model, tmp_path):
    """A checkpoint in bfloat16: TRL makes float32 of it, we do where nothing faster is
    at hand, or when told."""
    path = str(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base_model).bfloat16().save_pretrained(path)
    assert create_model_from_path(path).dtype == torch.float32
    cpu = torch.device("cpu")
    assert load_base(path, "bfloat16", cpu).dtype == torch.bfloat16
    assert load_base(path, "float32", cpu).dtype == torch.float32
    assert load_base(str(base_model), "auto", cpu).dtype == torch.float32


def test_label_smoothing_of_sigmoid_is_conservative_dpo(both):
    """TRL's loss stays −log σ(h). Ours is (1−ε)·that − ε·log σ(−h), which adds ε·h."""
    trainer, run = both(PAIRS[:1], batch_size=1, label_smoothing=0.2)
    (line,) = logged(trainer)
    margin = line["rewards/margins"]
    assert line["loss"] == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-5)
    ours = our_step(run, [0], trainer.passes[0].weights).figures.metrics()
    assert_same_metrics(ours, line, STEP_KEYS - {"loss"})
    assert ours["loss"] - line["loss"] == pytest.approx(0.2 * margin, abs=1e-4)


def test_a_small_micro_batch_counts_by_its_pairs(both):
    """Three pairs as micro-batches of two and one: TRL takes the mean of their means,
    so the lone pair counts twice, as it would here with a weight of 2."""
    accumulated = {"gradient_accumulation_steps": 2}
    rows = PAIRS[:3]
    trainer, even = both(rows, batch_size=2, trl=accumulated, ours={"batch_size": 3})
    theirs = trainer.passes[-1]
    ours = our_step(even, range(3), theirs.weights)
    assert apart(ours.gradients, theirs.gradients) > 1e-2
    even.data.pairs[2] = type(even.data.pairs[2])(
        **(vars(even.data.pairs[2]) | {"weight": 2.0})
    )
    ours = our_step(even, range(3), theirs.weights)
    assert apart(ours.gradients, theirs.gradients) <= 1e-4


def test_held_out_figures_are_means_over_pairs(family, adapter_of, tmp_path):
    """Three pairs in batches of two and one: TRL's margin is the mean of two means, so
    the lone pair counts twice in it; its loss is a mean over pairs, as ours."""
    made_of = (family("llama"), adapter_of("llama"), PAIRS)
    options = {"per_device_eval_batch_size": 2}
    held_out = PAIRS[:3]
    trainer = trl_dpo(*made_of, tmp_path / "trl", held_out=held_out, trl=options)
    theirs = trainer.evaluate()
    run = our_run(*made_of, tmp_path / "run", held_out=held_out)
    ours = evaluate_held_out(run)
    step = our_step(
        our_run(*made_of[:2], held_out, tmp_path / "one"),
        range(3),
        {name: p.detach().clone() for name, p in run.parameters.items()},
    )
    a, b, c = step.in_order(step.figures.margins, range(3)).tolist()
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], abs=1e-4)
    assert ours["eval_rewards/margins"] == pytest.approx((a + b + c) / 3, abs=1e-4)
    assert theirs["eval_rewards/margins"] == pytest.approx(
        ((a + b) / 2 + c) / 2, abs=1e-4
    )


def test_a_tie_is_shown_as_one(family, tmp_path):
    """An untrained policy equals its reference: 0 in TRL's accuracy, as here; a half,
    as for a coin, in the figure beside it."""
    run = our_run(
        family("llama"), None, PAIRS, tmp_path / "run", PAIRS[:3], lora={"r": 4}
    )
    figures = evaluate_held_out(run)
    assert figures["eval_rewards/accuracies"] == 0
    assert figures["eval_rewards/accuracies_ties_half"] == 0.5


def test_dropout_of_the_adapter_is_used_if_asked_for(both):
    """TRL's passes are those without, whatever the adapter was made with; ours are, too,
    unless the config asks."""
    trainer, run = both(PAIRS[:3], ours={"lora": {"dropout": 0.5}})
    assert_same_steps(trainer, run)
    torch.manual_seed(0)
    set_dropout(run.model, True)
    theirs = trainer.passes[0]
    ours = our_step(run, range(3), theirs.weights)
    set_dropout(run.model, False)
    logps = ours.in_order(ours.figures.chosen_logps, range(3))
    assert (logps - theirs.policy[:3]).abs().min() > 1e-2


def test_dropout_inside_a_models_code_is_off(family, adapter_of, tmp_path):
    """TRL switches off modules of dropout; Llama's attention has none, but a number."""
    base = shutil.copytree(family("llama"), tmp_path / "base")
    config = read_json(base / "config.json") | {"attention_dropout": 0.5}
    (base / "config.json").write_text(json.dumps(config))
    made_of = (base, adapter_of("llama"), PAIRS[:3])
    trainer = trl_dpo(*made_of, tmp_path / "trl")
    trainer.train()
    run = our_run(*made_of, tmp_path / "run")
    theirs = trainer.passes[0]
    ours = our_step(run, range(3), theirs.weights)
    logps = ours.in_order(ours.figures.chosen_logps, range(3))
    assert (logps - theirs.policy[:3]).abs().min() > 1e-2
    without = our_run(family("llama"), *made_of[1:], tmp_path / "without")
    wanted = our_step(without, range(3), theirs.weights)
    assert torch.equal(logps, wanted.in_order(wanted.figures.chosen_logps, range(3)))


def test_experts_are_balanced_by_no_loss(both):
    """A model with experts: TRL adds its balancing loss, the model's coefficient times
    the `aux_loss` it logs, unless told 0; the rest is the same."""
    trainer, run = both(PAIRS[:3], "mixtral")
    (line,) = logged(trainer)
    ours = our_step(run, range(3), trainer.passes[0].weights).figures.metrics()
    assert_same_metrics(ours, line, STEP_KEYS - {"loss"})
    added = 0.1 * line["aux_loss"]
    assert added > 0.05
    assert line["loss"] - ours["loss"] == pytest.approx(added, abs=1e-4)


def test_without_balancing_experts_train_as_trls(both):
    trainer, run = both(PAIRS, "mixtral", trl={"router_aux_loss_coef": 0.0})
    assert_same_steps(trainer, run)


def test_the_defaults_that_differ_are_those_the_page_names():
    theirs = DPOConfig("unused", use_cpu=True)
    ours = TrainingConfig("m")
    assert (theirs.learning_rate, ours.learning_rate) == (1e-6, None)
    assert (theirs.num_train_epochs, ours.epochs) == (3, None)
    assert (theirs.per_device_train_batch_size, ours.batch_size) == (8, None)
    assert (theirs.warmup_steps, ours.warmup_ratio) == (0, 0.1)
    assert (theirs.logging_steps, ours.logging_steps) == (10, 1)
    assert theirs.gradient_checkpointing and theirs.bf16
    for same in ("beta", "max_length", "seed", "max_grad_norm", "weight_decay"):
        assert getattr(theirs, same) == getattr(ours, same)
    assert theirs.lr_scheduler_type == ours.lr_scheduler
    assert theirs.loss_type == [ours.loss]

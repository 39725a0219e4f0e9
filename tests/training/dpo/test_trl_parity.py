"""TRL's own DPOTrainer on the same rows, weights and batches, in float32 on a CPU.

Both start from an adapter whose B is not zero (else A has no gradient) and measure
against the base, so that rewards are not zero from the first step on.
"""

import json

import peft
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from tests.training.dpo.runs import chat, read_rows
from training.dpo.batches import rows_of
from training.dpo.config import load_config
from training.dpo.process import StopFlag
from training.dpo.run import prepare
from training.dpo.status import StatusFile
from training.dpo.train import train

MAX_LENGTH = 60
RATE = 1e-3
COMPARED = {
    *("loss", "rewards/chosen", "rewards/rejected", "rewards/margins"),
    *("rewards/accuracies", "logps/chosen", "logps/rejected", "logits/chosen"),
    *("logits/rejected", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm"),
    *("learning_rate", "epoch"),
}

CHATS = [
    chat("How do I boil an egg?", "1. water 2. time", "I do not know."),
    chat("怎样煮鸡蛋?", "先把水烧开,再煮八分钟。", "不知道。"),
    chat("Salt?", "1", "2"),
    chat("你好", "1. 你好 " * 20, "你"),  # cut to MAX_LENGTH on one side
    chat("Tea?", "I do not know.", "I do not."),  # answers that begin alike
    chat("Tea?", "Of course!", "I do not."),  # the same prompt again
    chat("water " * 60, "dropped", "by both"),
    chat("Time?", "wait", "no"),
]
CHATS[4]["prompt"] = [
    {"role": "system", "content": "salt"},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]
STRINGS = [
    {"prompt": "boil the water, ", "chosen": "then salt", "rejected": "then wait"},
    {"prompt": "怎样", "chosen": "煮鸡蛋", "rejected": "你好<|im_end|>"},
    {"prompt": "I do", "chosen": " not know", "rejected": ""},
]


@pytest.fixture(scope="module")
def adapter(base_model, tmp_path_factory):
    """A LoRA folder whose A and B are both drawn at random."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
        init_lora_weights=False,
    )
    folder = tmp_path_factory.mktemp("adapter")
    peft.get_peft_model(model, settings).save_pretrained(folder)
    return folder


class Gradients(TrainerCallback):
    """Keeps each step's gradients, after clipping."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        named = model.named_parameters()
        self.steps.append({n: p.grad.clone() for n, p in named if p.grad is not None})


def trl_trainer(base_model, adapter, rows, tmp_path, **options):
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
    reference = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    gradients = Gradients()
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=MAX_LENGTH,
            logging_steps=1,
            learning_rate=RATE,
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base_model),
        callbacks=[gradients],
    )
    return trainer, gradients


def prepared_run(make_run, adapter, rows, **config):
    run = make_run(
        pairs=rows,
        lora={},
        parent_adapter=str(adapter),
        reference="base",
        max_length=MAX_LENGTH,
        learning_rate=RATE,
        shuffle=False,
        **config,
    )
    status = StatusFile(run)
    return prepare(run, load_config(run / "config.json"), StopFlag(), status).run


@pytest.mark.parametrize(("rows", "batch"), [(CHATS, 4), (STRINGS, 3)])
def test_ids_log_probs_metrics_and_gradients_are_trls(
    rows, batch, make_run, base_model, adapter, tmp_path, monkeypatch
):
    """Three epochs of steps; rewards are small differences of large sums, so they may
    differ by beta · 1e-6 · |logp|, near-ties in accuracies excepted by the data."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    epochs = {"num_train_epochs": 3, "per_device_train_batch_size": batch}
    schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 0.2, "weight_decay": 0.1}
    trainer, gradients = trl_trainer(
        base_model, adapter, rows, tmp_path, **epochs, **schedule
    )
    run = prepared_run(
        make_run,
        adapter,
        rows,
        epochs=3,
        batch_size=batch,
        lr_scheduler="cosine",
        warmup_ratio=0.2,
        weight_decay=0.1,
    )

    pairs = run.data.pairs
    theirs = list(trainer.train_dataset)
    assert [p.prompt_ids for p in pairs] == [row["prompt_ids"] for row in theirs]
    for pair, row in zip(pairs, theirs, strict=True):
        room = MAX_LENGTH - len(pair.prompt_ids)
        assert pair.chosen_ids == row["chosen_ids"][:room]
        assert pair.rejected_ids == row["rejected_ids"][:room]

    batch_of_all = trainer.data_collator(theirs)
    chosen, rejected = trainer.compute_ref_log_probs(trainer.ref_model, batch_of_all)
    torch.testing.assert_close(run.data.base.chosen, chosen, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run.data.base.rejected, rejected, rtol=1e-5, atol=1e-6)

    ours = []
    clip = torch.nn.utils.clip_grad_norm_

    def watched(parameters, *args):
        norm = clip(parameters, *args)
        ours.append({n: p.grad.clone() for n, p in run.parameters.items()})
        return norm

    trainer.train()
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", watched)
    train(run)

    assert len(ours) == len(gradients.steps) == run.total_steps
    for step, (mine, other) in enumerate(zip(ours, gradients.steps, strict=True)):
        assert set(mine) == set(other)
        for name, gradient in mine.items():
            apart = (gradient - other[name]).norm() / other[name].norm()
            assert apart < 1e-4 * (1 + step), (step, name)

    logged = [row for row in trainer.state.log_history if "loss" in row]
    for mine, other in zip(read_rows(run.log.path), logged, strict=True):
        size = max(abs(mine["logps/chosen"]), abs(mine["logps/rejected"]))
        for key in COMPARED:
            rewards = key.startswith("rewards/") or key == "loss"
            tolerance = 0.1 * 1e-6 * size if rewards else 1e-6
            wanted = pytest.approx(other[key], rel=1e-4, abs=tolerance)
            assert mine[key] == wanted, (mine["step"], key)


def test_every_metric_trl_logs_is_ours(make_run, base_model, adapter, tmp_path):
    """But for what its Trainer times: runtimes and flops."""
    options = {"max_steps": 1, "per_device_train_batch_size": 2}
    trainer, _ = trl_trainer(base_model, adapter, CHATS[:2], tmp_path, **options)
    trainer.train()
    first = next(row for row in trainer.state.log_history if "loss" in row)
    assert set(first) - {"step"} == COMPARED


def test_log_probs_under_the_adapter_are_the_models_own(make_run, adapter):
    """Sums over the answer, adapter on: against the plain logits of transformers."""
    run = prepared_run(make_run, adapter, CHATS[:4])
    rows = rows_of(run.data.pairs)
    model = run.model.get_base_model()
    with torch.no_grad():
        sums = run.engine.score(rows).logps
        for row, total in zip(rows, sums, strict=True):
            logps = model(torch.tensor([row.ids])).logits[0, :-1].log_softmax(-1)
            each = logps.gather(1, torch.tensor(row.ids)[1:, None])[:, 0]
            assert total.item() == pytest.approx(
                each[row.prompt_length - 1 :].sum().item(), rel=1e-5
            )
    assert json.dumps(run.data.base.chosen.tolist()) != json.dumps(sums[:4].tolist())

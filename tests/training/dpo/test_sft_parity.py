"""TRL's own SFTTrainer on the chosen answers, in float32 on a CPU: the same steps.

Both start from an adapter whose B is not zero, else A has no gradient.
"""

import peft
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.training.dpo.runs import chat, read_rows
from training.dpo.config import load_config
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.status import StatusFile
from training.dpo.train import train

MAX_LENGTH = 60
RATE = 1e-3
COMPARED = {
    *("loss", "mean_token_accuracy", "entropy", "num_tokens", "grad_norm"),
    *("learning_rate", "epoch"),
}

CHATS = [
    chat("How do I boil an egg?", "1. water 2. time", "I do not know."),
    chat("怎样煮鸡蛋?", "先把水烧开,再煮八分钟。", "不知道。"),
    chat("Salt?", "1", "2"),
    chat("你好", "1. 你好 " * 20, "你"),  # cut to MAX_LENGTH
    chat("Tea?", "I do not know.", "I do not."),
    chat("Tea?", "Of course!", "I do not."),  # the same prompt again
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
    gradients = Gradients()
    trainer = SFTTrainer(
        model=peft.PeftModel.from_pretrained(model, adapter, is_trainable=True),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            completion_only_loss=True,
            max_length=MAX_LENGTH,
            logging_steps=1,
            learning_rate=RATE,
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
        ),
        processing_class=AutoTokenizer.from_pretrained(base_model),
        callbacks=[gradients],
    )
    return trainer, gradients


@pytest.mark.parametrize(("rows", "batch"), [(CHATS, 4), (STRINGS, 3)])
def test_supervised_steps_are_trls(
    rows, batch, make_run, base_model, adapter, tmp_path, monkeypatch
):
    """Three epochs of steps: loss, token accuracy, entropy and the adapter's gradients,
    which drift apart by rounding as the weights do.
    """
    trainer, gradients = trl_trainer(
        base_model,
        adapter,
        rows,
        tmp_path,
        num_train_epochs=3,
        per_device_train_batch_size=batch,
        lr_scheduler_type="cosine",
        warmup_steps=0.2,
        weight_decay=0.1,
    )
    trainer.train()

    run = make_run(
        pairs=rows,
        lora={},
        parent_adapter=str(adapter),
        max_length=MAX_LENGTH,
        shuffle=False,
        batch_size=batch,
        lr_scheduler="cosine",
        warmup_ratio=0.2,
        weight_decay=0.1,
        sft_epochs=3,
        sft_learning_rate=RATE,
        epochs=1,
    )
    prepared = prepare(
        run, load_config(run / "config.json"), StopFlag(), StatusFile(run)
    )
    ours = []
    clip = torch.nn.utils.clip_grad_norm_

    def watched(parameters, *args):
        norm = clip(parameters, *args)
        ours.append({n: p.grad.clone() for n, p in prepared.run.parameters.items()})
        return norm

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", watched)
    train(prepared.run)

    steps = prepared.run.phases[0].last
    assert len(gradients.steps) == steps
    for step, (mine, other) in enumerate(zip(ours, gradients.steps, strict=False)):
        assert set(mine) == set(other)
        for name, gradient in mine.items():
            apart = (gradient - other[name]).norm() / other[name].norm()
            assert apart < 1e-4 * (1 + step), (step, name)

    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert set(logged[0]) - {"step"} == COMPARED
    lines = [r for r in read_rows(run / "metrics.jsonl") if r["phase"] == "sft"]
    for mine, other in zip(lines, logged, strict=True):
        for key in COMPARED:
            wanted = pytest.approx(other[key], rel=1e-4, abs=1e-6)
            assert mine[key] == wanted, (mine["step"], key)

"""TRL's DPOTrainer at its best, as a program: `python -m tests.bench.trl_side JOB.json`.

JOB.json: {"model", "pairs", "micro_batch", "batch", "checkpointing", "out"}. Written to
`out`: {"reference", "training"} in seconds. No gradient checkpointing unless asked for,
reference log-probs computed beforehand, float32, metrics logged at every step. The
token ids are given, so neither side's time holds any tokenising.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from tests.bench.material import MAX_LENGTH

KEYS = ("prompt_ids", "chosen_ids", "rejected_ids")


class Steps(TrainerCallback):
    """Seconds within optimizer steps; writing the log is outside, as it is for us."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.monotonic()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += time.monotonic() - self._begun


class Trainer(DPOTrainer):
    """Takes ids as they are, and knows how long the reference pass took."""

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *args: Any) -> Dataset:
        started = time.monotonic()
        done = super()._precompute_ref_logps(*args)
        self.reference_seconds += time.monotonic() - started
        return done


def main(job: dict[str, Any]) -> None:
    lines = Path(job["pairs"]).read_text("utf-8").splitlines()
    rows = [{key: row[key] for key in KEYS} for row in map(json.loads, lines)]
    steps = Steps()
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        args=DPOConfig(
            output_dir=f"{job['out']}.folder",
            per_device_train_batch_size=job["micro_batch"],
            gradient_accumulation_steps=job["batch"] // job["micro_batch"],
            gradient_checkpointing=job["checkpointing"],
            precompute_ref_log_probs=True,
            num_train_epochs=1,
            learning_rate=1e-4,
            max_length=MAX_LENGTH,
            logging_steps=1,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"
        ),
        callbacks=[steps],
    )
    trainer.train()
    figures = {"reference": trainer.reference_seconds, "training": steps.seconds}
    Path(job["out"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))

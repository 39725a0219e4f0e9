"""TRL's DPOTrainer, job after job: `python -m tests.bench.trl_side` (see `jobs.py`).

A job: {"model", "pairs", "batch", "micro_batch", "default", "checkpointing", "dtype",
"weights", "attention", "device", "folder", "rank"}. Answered: {"reference", "training"}
in seconds of wall clock, "cpu" in processor seconds over both, "steps" with each step's
metrics, "device_bytes" at most held on an accelerator. `default` leaves checkpointing and
reference as TRL has them; else the reference log-probs are computed beforehand.
`dtype` bfloat16 is TRL's `bf16`, over base weights of dtype `weights`. Metrics
are logged at every step. Token ids are given, so no side's time holds tokenising.
"""

import json
import uuid
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer

from tests.bench.jobs import Stopwatch, serve
from tests.bench.material import MAX_LENGTH

KEYS = ("prompt_ids", "chosen_ids", "rejected_ids")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Steps(TrainerCallback):
    """Seconds within optimizer steps; writing the log is outside, as it is for us."""

    def __init__(self) -> None:
        self.watch = Stopwatch(_wait)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.watch.__enter__()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.watch.__exit__()


class Trainer(DPOTrainer):
    """Takes ids as they are, and knows how long the reference pass took."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.reference_watch = Stopwatch(_wait)
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *args: Any) -> Dataset:
        with self.reference_watch:
            return super()._precompute_ref_logps(*args)


def run(job: dict[str, Any]) -> dict[str, Any]:
    lines = Path(job["pairs"]).read_text("utf-8").splitlines()
    rows = [{key: row[key] for key in KEYS} for row in map(json.loads, lines)]
    data = Dataset.from_list(rows)
    # TRL keeps reference log-probs under this name, and would find them next time.
    data._fingerprint = uuid.uuid4().hex
    choices: dict[str, Any] = {}
    if not job["default"]:
        choices["gradient_checkpointing"] = job["checkpointing"]
        choices["precompute_ref_log_probs"] = True
    on_gpu = job["device"] == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    steps = Steps()
    weights = getattr(torch, job["weights"])
    # None leaves it to transformers: torch's own.
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=weights, attn_implementation=job["attention"]
    )
    trainer = Trainer(
        model=model,
        args=DPOConfig(
            output_dir=job["folder"],
            per_device_train_batch_size=job["micro_batch"],
            gradient_accumulation_steps=job["batch"] // job["micro_batch"],
            num_train_epochs=1,
            learning_rate=1e-4,
            max_length=MAX_LENGTH,
            logging_steps=1,
            bf16=job["dtype"] == "bfloat16",
            use_cpu=not on_gpu,
            train_sampling_strategy="sequential",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **choices,
        ),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=job["rank"],
            lora_alpha=2 * job["rank"],
            target_modules="all-linear",
        ),
        callbacks=[steps],
    )
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    reference = trainer.reference_watch
    assert job["default"] or reference.seconds > 0
    return {
        "reference": reference.seconds,
        "training": steps.watch.seconds,
        "cpu": reference.cpu + steps.watch.cpu,
        "steps": logged,
        "device_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


if __name__ == "__main__":
    serve(run)

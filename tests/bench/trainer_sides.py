"""One side trains, once: job in, seconds, memory and each step's metrics out.

Both sides stay loaded and idle while it is the other's turn, and get the same pairs in
the same batches. Leaves out what is compared with what; see `trainer.py`.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.jobs import Worker
from tests.bench.material import MAX_LENGTH, MODELS, ModelShape
from tests.bench.processes import BenchError, run_to_end

Row = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """Wall and processor seconds for `pairs` pairs, reference pass included.

    `peak_bytes`: of a process of its own, or of the accelerator; None where neither was
    measured. `steps`: a step's metrics under TRL's names, oldest first. `forward`: of
    ours, how its passes were made, and why not in a thriftier way.
    """

    name: str
    pairs: int
    seconds: float
    cpu: float
    peak_bytes: int | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    forward: tuple[str, str] = ("", "")

    @property
    def pairs_per_second(self) -> float:
        return self.pairs / self.seconds


class Sides:
    """Both sides on one model and dtype, each a program that stays (see `jobs.py`)."""

    def __init__(
        self, folder: Path, model: str, dtype: str, device: str, batch: int
    ) -> None:
        self.folder, self.name = folder, model
        self.model: ModelShape = MODELS[model]
        self.model_folder = folder / f"model-{model}"
        self.dtype, self.device, self.batch = dtype, device, batch
        self.env = environment(device)
        self.mine = Worker("tests.bench.our_side", folder / "ours.log", self.env)
        self.theirs = Worker("tests.bench.trl_side", folder / "trl.log", self.env)
        self._count = 0

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()

    def rates(
        self, products: list[tuple[int, int, int]], seconds: float
    ) -> dict[str, list[float | None]]:
        """Operations a second of each product (rows, inputs, outputs), either way."""
        job = {"products": products, "seconds": seconds}
        job |= {"dtype": self.dtype, "device": self.device}
        rates: dict[str, list[float | None]] = self.mine.ask(job)["rates"]
        return rates

    def ours(
        self,
        rows: list[Row],
        savings: Mapping[str, bool] | None = None,
        fresh: bool = False,
    ) -> Turn:
        """`fresh`: by the command that people start, in a process of its own."""
        folder = self._folder("ours")
        folder.mkdir()
        _write(folder / "pairs.jsonl", rows)
        config: dict[str, Any] = {
            "base_model": str(self.model_folder),
            "lora": {"r": self.model.rank, "alpha": 2 * self.model.rank},
            "dtype": self.dtype,
            "batch_size": self.batch,
            "epochs": 1,
            "learning_rate": 1e-4,
            "warmup_ratio": 0.0,
            "max_length": MAX_LENGTH,
            "shuffle": False,
        }
        if savings is not None:
            config["savings"] = dict(savings)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if fresh:
            command = [sys.executable, "-m", "training.dpo", str(folder)]
            peak = run_to_end(command, folder / "log", self.env).peak_bytes
            shutil.rmtree(folder)
            return Turn("ours", len(rows), 0.0, 0.0, peak)
        answer = self.mine.ask({"folder": str(folder)})
        shutil.rmtree(folder)
        return self._turn("ours", rows, answer)

    def trl(
        self,
        rows: list[Row],
        micro_batch: int,
        *,
        default: bool = False,
        checkpointing: bool = False,
        weights: str | None = None,
        attention: str | None = None,
        fresh: bool = False,
    ) -> Turn:
        """`default`: checkpointing and a reference pass at every step, as TRL has it.

        `weights`: dtype of the base, if not the one computed in. `attention`:
        transformers' name of it, if not the one it takes by itself.
        """
        folder = self._folder("trl")
        pairs = folder.with_suffix(".jsonl")
        _write(pairs, rows)
        job = {
            "model": str(self.model_folder),
            "pairs": str(pairs),
            "batch": self.batch,
            "micro_batch": micro_batch,
            "default": default,
            "checkpointing": checkpointing,
            "dtype": self.dtype,
            "weights": weights or self.dtype,
            "attention": attention,
            "device": self.device,
            "folder": str(folder),
            "rank": self.model.rank,
        }
        name = f"TRL, micro-batch {micro_batch}"
        name += ", as it comes" if default else ", checkpointing" * checkpointing
        name += f", {weights} weights" if weights else ""
        name += f", {attention}" if attention else ""
        if fresh:
            log = folder.with_suffix(".log")
            with Worker("tests.bench.trl_side", log, self.env) as alone:
                answer = alone.ask(job)
        else:
            answer = self.theirs.ask(job)
        shutil.rmtree(folder, ignore_errors=True)
        return self._turn(name, rows, answer, fresh)

    def _turn(
        self, name: str, rows: list[Row], answer: dict[str, Any], fresh: bool = False
    ) -> Turn:
        peak = answer["device_bytes"]
        if peak is None and fresh:
            peak = answer["process_bytes"]
        if not answer["training"] > 0:
            raise BenchError(f"{name} trained for {answer['training']} s")
        seconds = answer["reference"] + answer["training"]
        forward = (answer.get("forward", ""), answer.get("why", ""))
        return Turn(
            name, len(rows), seconds, answer["cpu"], peak, answer["steps"], forward
        )

    def _folder(self, side: str) -> Path:
        self._count += 1
        return self.folder / f"{self.dtype}-{self._count}-{side}"


def environment(device: str) -> dict[str, str]:
    """A thread a core on both sides, which wait for work as each side has it; nothing
    asked of the network.
    """
    told = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TQDM_DISABLE": "1",
    }
    return told if device == "cuda" else told | {"CUDA_VISIBLE_DEVICES": ""}


def write_model(folder: Path, model: str, device: str) -> None:
    """Write the model `model` where Sides looks for it, in bfloat16 for a GPU."""
    target = folder / f"model-{model}"
    dtype = "bfloat16" if device == "cuda" else "float32"
    command = [sys.executable, "-m", "tests.bench.material", str(target), model, dtype]
    run_to_end(command, folder / f"model-{model}.log", environment(device))


def _write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

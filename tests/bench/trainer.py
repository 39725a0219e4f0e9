"""DPO with LoRA on a CPU in float32: pairs a second and peak memory, against TRL's.

Both sides do the same pairs once, four to an optimizer step, reference pass included;
loading, tokenising and what is written at the end are left out on both. TRL runs with
each micro-batch, and its fastest counts. Memory is that of the whole process.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.figures import Budget, Figure, load
from tests.bench.material import MAX_LENGTH, pairs_of
from tests.bench.options import Options
from tests.bench.processes import run_to_end

BATCH = 4
MICRO_BATCHES = (1, 4)
PAIRS = {"short": 24, "chat": 12, "long": 8}
QUICK_PAIRS = 4
FASTER = {"short": 2.0, "chat": 4.0, "long": 4.0}
"""How many times TRL's pairs a second."""
MEMORY_OF_FRUGAL, MEMORY_OF_FOUR = 0.5, 0.2


@dataclass(frozen=True)
class Side:
    """Seconds for all pairs, reference pass included, and the process's peak."""

    name: str
    seconds: float
    peak_bytes: int


def measure(options: Options) -> Iterator[Figure]:
    model = options.folder / "model"
    options.say("trainer: making a model of 8 layers × 512")
    command = [sys.executable, "-m", "tests.bench.material", str(model)]
    run_to_end(command, options.folder / "model.log", _env())
    for shape in options.shapes:
        count = options.pairs or (QUICK_PAIRS if options.quick else PAIRS[shape])
        yield from _shape(options, model, shape, count)


def _shape(options: Options, model: Path, shape: str, count: int) -> Iterator[Figure]:
    """Repeats take turns, so that a busy minute of the machine strikes both sides."""
    pairs = options.folder / f"{shape}.jsonl"
    rows = pairs_of(shape, count)
    _write(pairs, rows)
    busy = load()
    ours: list[Side] = []
    theirs: dict[int, list[Side]] = {size: [] for size in MICRO_BATCHES}
    for turn in range(1, options.repeats + 1):
        told = f"trainer: {shape}, {count} pairs, turn {turn} of {options.repeats}"
        options.say(f"{told}: ours")
        ours.append(_ours(options.folder / f"{shape}-{turn}", model, pairs))
        for size in MICRO_BATCHES:
            options.say(f"{told}: TRL, micro-batch {size}")
            out = options.folder / f"{shape}-{turn}-trl-{size}"
            theirs[size].append(_trl(out, model, pairs, size))
    options.say(f"trainer: {shape}: TRL at its most frugal")
    out = options.folder / f"{shape}-trl-frugal"
    longest = options.folder / f"{shape}-longest.jsonl"
    _write(longest, sorted(rows, key=_tokens)[-BATCH:])
    # Timed by nobody, and no pair but the longest decides how much memory it takes.
    frugal = _trl(out, model, longest, 1, checkpointing=True)
    yield from figures_of(shape, count, ours, theirs, frugal, f"{busy} at the start")


def figures_of(
    shape: str,
    count: int,
    ours: list[Side],
    theirs: dict[int, list[Side]],
    frugal: Side,
    note: str,
) -> Iterator[Figure]:
    """The quickest turn of each side counts; of memory, the largest."""
    mine = min(side.seconds for side in ours)
    quickest = min((side for sides in theirs.values() for side in sides), key=_seconds)
    yield Figure(
        f"trainer/{shape}/speed",
        count / mine,
        "pairs/s",
        quickest.name,
        count / quickest.seconds,
        Budget("ratio", "≥", FASTER[shape]),
        f"{count} pairs, best of {len(ours)}, {note}",
    )
    peak = max(side.peak_bytes for side in ours) / 2**20
    of_four = max(side.peak_bytes for side in theirs[4]) / 2**20
    for name, rival, rival_peak, bound in (
        ("memory", frugal.name, frugal.peak_bytes / 2**20, MEMORY_OF_FRUGAL),
        ("memory/4", theirs[4][0].name, of_four, MEMORY_OF_FOUR),
    ):
        yield Figure(
            f"trainer/{shape}/{name}",
            peak,
            "MiB",
            rival,
            rival_peak,
            Budget("ratio", "≤", bound),
            "whole process, interpreter, libraries and weights included",
        )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def _tokens(row: dict[str, Any]) -> int:
    """Of the longer of the two sequences."""
    answer = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
    return len(row["prompt_ids"]) + answer


def _seconds(side: Side) -> float:
    return side.seconds


def _ours(folder: Path, model: Path, pairs: Path) -> Side:
    folder.mkdir()
    (folder / "pairs.jsonl").write_bytes(pairs.read_bytes())
    config = {
        "base_model": str(model),
        "lora": {"r": 16, "alpha": 32},
        "dtype": "float32",
        "batch_size": BATCH,
        "epochs": 1,
        "learning_rate": 1e-4,
        "warmup_ratio": 0.0,
        "max_length": MAX_LENGTH,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "training.dpo", str(folder)]
    ended = run_to_end(command, folder / "log", _env())
    seconds = json.loads((folder / "summary.json").read_text("utf-8"))["seconds"]
    return Side("ours", seconds["reference"] + seconds["training"], ended.peak_bytes)


def _trl(
    out: Path, model: Path, pairs: Path, micro_batch: int, checkpointing: bool = False
) -> Side:
    job = {
        "model": str(model),
        "pairs": str(pairs),
        "micro_batch": micro_batch,
        "batch": BATCH,
        "checkpointing": checkpointing,
        "out": f"{out}.out.json",
    }
    path = Path(f"{out}.json")
    path.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "tests.bench.trl_side", str(path)]
    ended = run_to_end(command, Path(f"{out}.log"), _env())
    seconds = json.loads(Path(job["out"]).read_text("utf-8"))
    assert seconds["reference"] > 0 and seconds["training"] > 0
    name = f"TRL, micro-batch {micro_batch}"
    name += ", checkpointing" if checkpointing else ""
    return Side(name, seconds["reference"] + seconds["training"], ended.peak_bytes)


def _env() -> dict[str, str]:
    """A thread a core on both sides; nothing asked of the network.

    Ours lets idle threads sleep, which spares much on a busy machine: TRL's too.
    """
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TQDM_DISABLE": "1",
    }

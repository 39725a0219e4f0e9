"""A trainer that trains nothing, on the contract of design §5.2, for tests of rounds.

    python stub_trainer.py RUN_DIR

Steps take config.json's `weight_decay` seconds each (a key that changes nothing here),
so a test decides how long a run is. Everything else is as the real one: status.json,
metrics.jsonl line by line, checkpoints marked COMPLETE, SIGTERM → 75, resume_from,
the folder's lock, death with its parent. Each start is noted in RUN_DIR/../starts with
its pid and the pids of earlier ones that still live (there must be none), each tidy end
in ../ends.
"""

import json
import os
import sys
import time
from pathlib import Path

from tests.training.tiny_adapter import canary, write_adapter
from training.dpo.errors import FolderLocked, Stopped
from training.dpo.files import read_json_object, read_jsonl, write_json, write_jsonl
from training.dpo.lock import folder_lock
from training.dpo.process import PARENT_VARIABLE, StopFlag
from training.dpo.status import StatusFile

STEPS = 20


def main(run_dir: Path) -> int:
    stop = StopFlag()
    stop.install()
    try:
        if parent := os.environ.get(PARENT_VARIABLE):
            stop.die_with_parent(int(parent))
        with folder_lock(run_dir):
            return run(run_dir, stop)
    except FolderLocked as locked:
        print(locked, file=sys.stderr)
        return 73
    except Stopped:
        return 75


def run(run_dir: Path, stop: StopFlag) -> int:
    config = read_json_object(run_dir / "config.json")
    pause = config.get("weight_decay", 0)
    pairs = [row for _line, row in read_jsonl(run_dir / "pairs.jsonl")]
    status = StatusFile(run_dir)
    note(run_dir, "starts")
    step = resumed_step(config.get("resume_from"))
    for done in range(1, step + 1):
        log(run_dir, done)
    status.phase("training", STEPS, step=step, total_steps=STEPS)
    try:
        if config.get("seed") == 13:
            status.finish("failed", "The stub was told to fail.")
            print("noise\nThe stub was told to fail.", file=sys.stderr)
            return 1
        while config.get("seed") == 99:  # hangs, and says nothing more
            time.sleep(0.05)
        while step < STEPS:
            step += 1
            time.sleep(pause)
            log(run_dir, step)
            status.values |= {"eta_seconds": pause * (STEPS - step)}
            status.phase("training", STEPS, step=step)
            checkpoint(run_dir, step)
            if stop.requested:
                status.finish("stopped", "stopped by a signal")
                return 75
        finish(run_dir, config, pairs)
        status.finish("done")
        return 0
    finally:
        note(run_dir, "ends")


def note(run_dir: Path, what: str) -> None:
    with open(run_dir.parent / what, "a+") as file:
        file.seek(0)
        pids = [line.split()[1] for line in file]
        living = [pid for pid in pids if what == "starts" and is_trainer(pid)]
        file.write(f"{run_dir.name} {os.getpid()} {','.join(living)}\n")


def is_trainer(pid: str) -> bool:
    try:
        return b"stub_trainer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def resumed_step(source: str | None) -> int:
    if source is None:
        return 0
    steps = Path(source).glob("checkpoints/step-*/COMPLETE")
    return max(int(marker.parent.name.removeprefix("step-")) for marker in steps)


def log(run_dir: Path, step: int) -> None:
    row = {
        "step": step,
        "phase": "dpo",
        "loss": 0.69 - step / 100,
        "rewards/chosen": -step / 50,
        "rewards/rejected": -step / 20,
        "rewards/margins": step * 0.03,
        "rewards/accuracies": min(1.0, 0.5 + step / 30),
    }
    if step in (1, STEPS):
        row |= {"eval_loss": 0.68, "eval_rewards/accuracies": 0.6}
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


def checkpoint(run_dir: Path, step: int) -> None:
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    write_json(folder / "COMPLETE", {}, durable=False)


def finish(run_dir: Path, config: dict, pairs: list[dict]) -> None:
    write_adapter(run_dir / "adapter", config["base_model"], str(run_dir.parent))
    write_json(run_dir / "canary.json", canary())
    write_jsonl(
        run_dir / "pairs_scored.jsonl",
        [{"id": pair["id"], "margin": 0.5 + i} for i, pair in enumerate(pairs)],
    )
    write_json(run_dir / "summary.json", {"steps": STEPS, "final": {"loss": 0.49}})


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

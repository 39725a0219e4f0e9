"""What a run leaves when its last step is done: adapter/ or model/, canary.json,
pairs_scored.jsonl and summary.json. Leaves out metrics.jsonl, held_out_scored.jsonl and
status.json, which are written while it trains.
"""

import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from training.dpo.adapter import save_adapter
from training.dpo.answer_figures import AnswerFigures
from training.dpo.canary import policy_canary
from training.dpo.config import as_dict
from training.dpo.data import RowReport
from training.dpo.distributed import is_main, world_size
from training.dpo.evaluate import evaluate, unlikely_held_out
from training.dpo.files import read_jsonl, write_json, write_jsonl
from training.dpo.full import save_model
from training.dpo.guardrails import Caution, held_out_cautions
from training.dpo.machine import peak_memory
from training.dpo.metrics import Figures
from training.dpo.phases import DPO
from training.dpo.progress import say
from training.dpo.reference import ReferenceStore
from training.dpo.run_state import Position, Run
from training.dpo.scored import (
    by_pair,
    held_out_line,
    held_out_report,
    most_doubtful,
    scored_rows,
)
from training.dpo.sharding import is_sharded, pass_dtype
from training.dpo.watch import curves, warn


@dataclass
class Prepared:
    """A run ready for its first step, and what summary.json tells of the way there."""

    run: Run
    tokenizer: Any
    canary_ids: list[list[int]]
    base_parameters: int
    base_logprobs: list[list[float]]
    reports: dict[str, RowReport]
    hashes: dict[str, str]
    seconds: dict[str, float]
    store: ReferenceStore
    preflight: dict[str, Any] = field(default_factory=dict)
    cautions: list[Caution] = field(default_factory=list)


def write_outputs(prepared: Prepared, position: Position, started: float) -> None:
    """Score the pairs that trained and write what a run leaves; `started`: by the
    monotonic clock, when this process began it. Raises Stopped.
    """
    run = prepared.run
    run.status.phase(
        "scoring", len(run.data.pairs), step=position.step, eta_seconds=None
    )

    def each(done: int) -> None:
        run.stop.check()
        run.status.progress(phase_done=done)

    figures = evaluate(run.engine, run.data, run.objective, each)
    unlikely = unlikely_held_out(run)
    run.status.phase("saving")
    canary = policy_canary(run.engine, prepared.canary_ids, prepared.base_logprobs)
    files = _save_weights(prepared)
    if not is_main():
        return
    scored = by_pair(scored_rows(run.data.pairs, figures))
    write_jsonl(run.folder / "pairs_scored.jsonl", scored)
    write_json(run.folder / "canary.json", canary)
    prepared.seconds |= {
        "training": position.seconds,
        "this_process": time.monotonic() - started,
    }
    summary = _summary(prepared, position, figures, unlikely, files)
    if summary["held_out"] is not None:
        say(held_out_line(summary["held_out"]))
    write_json(run.folder / "summary.json", summary)


def _save_weights(prepared: Prepared) -> dict[str, str]:
    """{file: sha256} of what is written, on process 0."""
    run = prepared.run
    if run.config.tuning == "full":
        folder = run.folder / "model"
        dtype = pass_dtype(run.engine.causal_lm)
        files = save_model(run.model, dtype, prepared.tokenizer, folder)
    elif is_main():
        folder = run.folder / "adapter"
        files = save_adapter(run.model, folder, run.config.base_model)
    else:
        return {}
    return {f"{folder.name}/{name}": digest for name, digest in files.items()}


def _summary(
    prepared: Prepared,
    position: Position,
    figures: Figures | AnswerFigures,
    unlikely: dict[str, float] | None,
    files: dict[str, str],
) -> dict[str, Any]:
    run = prepared.run
    held_out = _compared(run)
    if held_out is not None:
        held_out["unlikely/chosen"] = unlikely
    cautions = [*prepared.cautions, *curves(run), *held_out_cautions(held_out)]
    warn(run, cautions)
    return {
        "rows": {name: report.as_dict() for name, report in prepared.reports.items()},
        "steps": position.step,
        "phases": [
            {
                "phase": phase.name,
                "steps": phase.schedule.total_steps,
                "epochs": phase.schedule.epochs,
                "learning_rate": phase.learning_rate,
                "held_out": _held_out(run, phase.name),
            }
            for phase in run.phases
        ],
        "epochs": run.settled.epochs,
        "batch_size": run.settled.batch_size,
        "learning_rate": run.settled.learning_rate,
        "chosen": run.settled.as_dict(),
        "tokens": position.num_tokens,
        "seconds": {name: round(s, 3) for name, s in prepared.seconds.items()},
        "peak_memory_bytes": peak_memory(run.device),
        "final": figures.metrics(),
        "look_at_first": most_doubtful(by_pair(scored_rows(run.data.pairs, figures))),
        "reference": prepared.store.told(),
        "held_out": held_out,
        "warnings": [caution.as_dict() for caution in cautions],
        "preflight": prepared.preflight,
        "dtype": str(pass_dtype(run.engine.causal_lm)).removeprefix("torch."),
        "device": run.engine.causal_lm.device.type,
        "processes": world_size(),
        "sharding": "full" if is_sharded(run.engine.causal_lm) else "none",
        "threads": torch.get_num_threads(),
        "forward": {"why": run.engine.why, **run.engine.numerics},
        "base_parameters": prepared.base_parameters,
        "trained_parameters": sum(p.numel() for p in run.parameters.values()),
        "config": as_dict(run.config),
        "hashes": prepared.hashes | files,
        "versions": {
            name: version(name)
            for name in ("torch", "transformers", "peft", "safetensors")
        },
    }


def _held_out(run: Run, phase: str) -> dict[str, Any] | None:
    """The held-out figures at a phase's start and end: {"start": …, "end": …}.

    Of a phase of one step the only line in metrics.jsonl has the end's, and a checkpoint
    of an earlier version lacks the start's.
    """
    evaluated = [
        row
        for _, row in read_jsonl(run.log.path)
        if "eval_loss" in row and row["phase"] == phase
    ]
    if not evaluated:
        return None
    ends = {
        "start": run.started_with.get(phase) or evaluated[0],
        "end": evaluated[-1],
    }
    return {
        end: {
            k.removeprefix("eval_"): v for k, v in row.items() if k.startswith("eval_")
        }
        for end, row in ends.items()
    }


def _compared(run: Run) -> dict[str, Any] | None:
    """The held-out figures at the start and the end of DPO, and their difference."""
    ends = _held_out(run, DPO)
    if run.held_out is None or ends is None:
        return None
    return held_out_report(run.folder, run.held_out.pairs, ends)

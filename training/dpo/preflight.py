"""What a run is going to do, said before it trains: preflight.json and some lines.

Rows, tokens, steps, what was chosen and why, time and memory from a few measured steps,
disk, cautions. Measuring takes real gradients of real pairs and throws them away:
weights, random numbers and metrics stay as they were. It is left out where it would
cost a noticeable share of the run, and after a resume. Leaves out the limits of what is
usual; see `guardrails.py`.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from training.dpo.adapter import set_dropout
from training.dpo.checkpoint import KEPT, ROOM
from training.dpo.data import Answer, Pair, prompts_of
from training.dpo.defaults import FORWARD_SHARE
from training.dpo.distributed import from_main, is_main
from training.dpo.errors import TrainerError
from training.dpo.evaluate import evaluation_interval
from training.dpo.files import write_json
from training.dpo.guardrails import (
    Caution,
    config_cautions,
    data_cautions,
    memory_cautions,
    position_cautions,
)
from training.dpo.machine import device_memory, peak_memory
from training.dpo.outputs import Prepared
from training.dpo.phases import DPO
from training.dpo.positions import positions_of
from training.dpo.progress import say
from training.dpo.row_tokens import common_length
from training.dpo.run_state import Run
from training.dpo.step import backward_step
from training.dpo.watch import warn

MEASURING_SHARE = 0.05
"""Of the run's tokens, at most, that measuring may take."""

SHORT_RUN = 1e12
"""Multiplications and additions below which a run is not worth measuring: some ten
seconds on two cores. Six a token and weight: two forward, four backward."""

METRIC_BYTES, SCORED_BYTES, OPTIMIZER_BYTES, LOGP_BYTES = 1500, 400, 8, 8
"""On disk a line of metrics, a scored pair, AdamW's two means of a weight, and an answer
token's log-probs under base and reference."""


@dataclass(frozen=True)
class Measured:
    """One measured optimizer step, its optimizer aside."""

    pairs: int
    tokens: int
    seconds: float


def look_ahead(
    prepared: Prepared, is_resumed: bool = False, is_check: bool = False
) -> None:
    """Write preflight.json, say what matters and keep it in `prepared`.

    `is_check`: measure though the run is short. Raises TrainerError if the disk is too
    full for what the run will write.
    """
    run = prepared.run
    estimate: dict[str, Any] = {
        "why_not_measured": _why_not(prepared, is_resumed, is_check)
    }
    if estimate["why_not_measured"] is None:
        run.status.phase("measuring")
        estimate = _estimated(run, _measure(run))
    estimate["memory_there_bytes"] = device_memory(run.device)
    disk = from_main(disk_wanted(run))
    cautions = _cautions(prepared) + memory_cautions(
        estimate.get("peak_memory_bytes"), estimate["memory_there_bytes"]
    )
    prepared.cautions = cautions
    prepared.preflight = {
        "rows": {name: report.as_dict() for name, report in prepared.reports.items()},
        "tokens": token_counts(run.data.pairs),
        "phases": _phases(run),
        "chosen": run.settled.as_dict(),
        "held_out": _held_out(run),
        "estimate": estimate,
        "disk": disk,
        "warnings": [caution.as_dict() for caution in cautions],
    }
    if is_main():
        write_json(run.folder / "preflight.json", prepared.preflight)
    for line in preflight_lines(prepared.preflight):
        say(line)
    warn(run, cautions)
    if disk["wanted_bytes"] > disk["free_bytes"]:
        raise TrainerError(
            f"The disk has {_size(disk['free_bytes'])} free, but the run wants"
            f" about {_size(disk['wanted_bytes'])} (checkpoints"
            f" {_size(disk['checkpoints_bytes'])}): free some space."
        )


def token_counts(pairs: Sequence[Pair]) -> dict[str, int]:
    """Tokens of the pairs: prompts and answers, each pair on its own.

    Labelled answers count as chosen if desirable, else as rejected; strays do not
    count. `shared` of them stand at the beginning of both sides of their pair, or of an
    answer and its stray, so that one pass of the model serves both; `longest` is the
    longest side, prompt included, and a stray's too.
    """
    bad = [p.chosen_ids for p in pairs if isinstance(p, Answer) and not p.label]
    bad += [pair.rejected_ids for pair in pairs if not isinstance(pair, Answer)]
    good = [pair.chosen_ids for pair in pairs if getattr(pair, "label", True)]
    return {
        "prompt": sum(len(pair.prompt_ids) for pair in pairs),
        "chosen": sum(map(len, good)),
        "rejected": sum(map(len, bad)),
        "shared": sum(
            len(pair.prompt_ids) + common_length(pair.chosen_ids, pair.rejected_ids)
            for pair in pairs
            if pair.rejected_ids
        ),
        "longest": max(pair.longest for pair in pairs),
    }


def _phases(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "phase": phase.name,
            "pairs": len(phase.members),
            "steps": phase.schedule.total_steps,
            "epochs": phase.schedule.epochs,
            "batch_size": phase.schedule.batch_size,
            "learning_rate": phase.learning_rate,
            "eval_steps": evaluation_interval(run, phase),
        }
        for phase in run.phases
    ]


def _held_out(run: Run) -> dict[str, int] | None:
    if run.held_out is None:
        return None
    pairs = run.held_out.pairs
    return {"pairs": len(pairs), "prompts": len(prompts_of(pairs))}


def _cautions(prepared: Prepared) -> list[Caution]:
    run = prepared.run
    held_out = run.held_out.pairs if run.held_out is not None else []
    updates = {phase.name: phase.schedule.total_steps for phase in run.phases}
    rows = {"pairs.jsonl": run.data.pairs, "held_out.jsonl": held_out}
    return [
        *config_cautions(run.config, run.settled, prepared.base_parameters),
        *position_cautions(rows, positions_of(run.engine.causal_lm)),
        *data_cautions(
            run.data.pairs, held_out, prepared.reports, run.config.max_length, updates
        ),
    ]


# --- Time and memory -------------------------------------------------------------------


def _why_not(prepared: Prepared, is_resumed: bool, is_check: bool) -> str | None:
    """Why nothing is measured, None if it is. From counts, alike in every process."""
    run = prepared.run
    work = sum(phase.tokens * phase.schedule.total_steps for phase in run.phases)
    tokens = sum(_tokens(run, indexes) for indexes in _samples(run))
    if is_resumed:
        return "the run goes on from a checkpoint"
    if is_check:
        return None
    if 6 * prepared.base_parameters * work < SHORT_RUN:
        return "the run is short"
    if tokens > MEASURING_SHARE * work:
        return "measuring would take a noticeable share of the run"
    return None


def _samples(run: Run) -> list[list[int]]:
    """Indexes of the measured steps' pairs: typical ones twice (the first time warms
    up), then the longest ones, which need the most memory."""
    members = [i for phase in run.phases if phase.name == DPO for i in phase.members]
    members.sort(key=lambda index: (run.data.pairs[index].longest, index))
    size = min(run.settled.batch_size, len(members))
    middle = (len(members) - size) // 2
    typical = members[middle : middle + size]
    return [typical, typical, members[-size:]]


def _tokens(run: Run, indexes: Sequence[int]) -> int:
    return sum(run.data.pairs[index].tokens for index in indexes)


def _measure(run: Run) -> list[Measured]:
    """Take the gradients of `_samples` and throw them away."""
    on_gpu = torch.cuda.is_available()
    numbers = torch.get_rng_state()
    gpu_numbers = torch.cuda.get_rng_state() if on_gpu else None
    set_dropout(run.model, True)
    measured = []
    try:
        for indexes in _samples(run):
            run.stop.check()
            started = time.monotonic()
            backward_step(run, indexes)
            if on_gpu:
                torch.cuda.synchronize()
            seconds = time.monotonic() - started
            measured.append(Measured(len(indexes), _tokens(run, indexes), seconds))
            for parameter in run.parameters.values():
                parameter.grad = None
    finally:
        set_dropout(run.model, False)
        torch.set_rng_state(numbers)
        if gpu_numbers is not None:
            torch.cuda.set_rng_state(gpu_numbers)
    return measured[1:]


def _estimated(run: Run, measured: Sequence[Measured]) -> dict[str, Any]:
    a_step, a_token = fitted(measured)
    seconds = 0.0
    for phase in run.phases:
        steps = phase.schedule.total_steps
        seconds += steps * (a_step + a_token * phase.tokens)
        if run.held_out is not None:
            times = 1 + -(-steps // evaluation_interval(run, phase))
            tokens = sum(pair.tokens for pair in run.held_out.pairs)
            seconds += times * FORWARD_SHARE * a_token * tokens
    scoring = sum(pair.tokens for pair in run.data.pairs)
    seconds += FORWARD_SHARE * a_token * scoring
    trained = sum(p.numel() for p in run.parameters.values())
    return {
        "why_not_measured": None,
        "measured": [asdict(step) for step in measured],
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory(run.device) + OPTIMIZER_BYTES * trained,
    }


def fitted(measured: Sequence[Measured]) -> tuple[float, float]:
    """(seconds a step, seconds a token) that explain the measured steps.

    Through the shortest and the longest; where these are alike, or the longer one was
    quicker, all is put down to the tokens.
    """
    first, last = measured[0], measured[-1]
    apart = last.tokens - first.tokens
    a_token = (last.seconds - first.seconds) / apart if apart > 0 else 0.0
    a_step = first.seconds - a_token * first.tokens
    if a_token <= 0 or a_step < 0:
        tokens = sum(step.tokens for step in measured)
        return 0.0, sum(step.seconds for step in measured) / max(tokens, 1)
    return a_step, a_token


# --- Disk ------------------------------------------------------------------------------


def disk_wanted(run: Run) -> dict[str, int]:
    """Bytes that must be free for the run, and those free in its folder.

    Checkpoints hold the trained weights and AdamW's means; beside those kept, each one
    wants ROOM before it is written.
    """
    weights = sum(p.numel() * p.element_size() for p in run.parameters.values())
    trained = sum(p.numel() for p in run.parameters.values())
    there = min(KEPT, len([*(run.folder / "checkpoints").glob("step-*")]))
    checkpoints = round((KEPT + ROOM - there) * (weights + OPTIMIZER_BYTES * trained))
    if len(run.phases) > 1:
        checkpoints += weights  # those after supervised training, kept to the end
    rows = len(run.data.pairs) + (len(run.held_out.pairs) if run.held_out else 0)
    steps = run.total_steps / run.config.logging_steps
    answers = sum(len(p.chosen_ids) + len(p.rejected_ids) for p in run.data.pairs)
    outputs = weights + SCORED_BYTES * rows + round(METRIC_BYTES * steps)
    outputs += LOGP_BYTES * answers
    return {
        "checkpoints_bytes": checkpoints,
        "outputs_bytes": outputs,
        "wanted_bytes": checkpoints + outputs,
        "free_bytes": shutil.disk_usage(run.folder).free,
    }


def check_room(run: Run) -> None:
    """Raise TrainerError if the outputs would not fit on the disk any more."""
    disk = from_main(disk_wanted(run))
    wanted, free = disk["outputs_bytes"], disk["free_bytes"]
    if wanted > free:
        raise TrainerError(
            f"The disk is too full for the adapter and the other outputs:"
            f" {_size(free)} free, about {_size(wanted)} wanted; free some space and"
            " start the same command again: training is done and kept."
        )


# --- In words --------------------------------------------------------------------------


def preflight_lines(told: dict[str, Any]) -> list[str]:
    """What preflight.json says, for the terminal."""
    rows, tokens = told["rows"]["pairs.jsonl"], told["tokens"]
    lines = [
        f"{rows['used']} of {rows['read']} rows train; tokens: prompts"
        f" {tokens['prompt']:,}, chosen {tokens['chosen']:,}, rejected"
        f" {tokens['rejected']:,}; longest {tokens['longest']:,}"
    ]
    for phase in told["phases"]:
        lines.append(
            f"{phase['phase']}: {phase['steps']} steps of {phase['batch_size']} pairs,"
            f" {phase['epochs']:g} epochs, learning rate {phase['learning_rate']:g}"
        )
    for name, choice in told["chosen"].items():
        if choice["why"] != "given":
            lines.append(f"  {name} {choice['value']:g}: {choice['why']}")
    if told["held_out"]:
        every = told["phases"][-1]["eval_steps"]
        is_often = every < told["phases"][-1]["steps"]
        lines.append(
            f"held out: {told['held_out']['pairs']} pairs of"
            f" {told['held_out']['prompts']} prompts, evaluated at the start,"
            f"{f' every {every} steps' if is_often else ''} and at the end"
        )
    estimate, disk = told["estimate"], told["disk"]
    if estimate["why_not_measured"] is None:
        lines.append(
            f"about {_duration(estimate['seconds'])} and"
            f" {_size(estimate['peak_memory_bytes'])} of"
            f" {_size(estimate['memory_there_bytes'])} of memory;"
            f" {_size(disk['wanted_bytes'])} of {_size(disk['free_bytes'])} of disk"
        )
    return lines


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

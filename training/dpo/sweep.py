"""`python -m training.dpo sweep RUN_DIR --beta 0.05,0.1 …`: train every combination, rank them.

    RUN_DIR/sweep/sweep.json             the ranking, renewed after each trial
    RUN_DIR/sweep/pairs.jsonl, …         the rows with their token ids, made once
    RUN_DIR/sweep/reference-cache/       reference log-probs, computed once
    RUN_DIR/sweep/beta=0.05,epochs=2/    a trial: an ordinary run folder

Each trial is a process of its own, so that it can be stopped, looked at and resumed by
hand, and one that runs out of memory takes no other along. The same command goes on
where a sweep stopped: done trials are kept. Leaves out the options (`sweep_options.py`)
and what is concluded (`sweep_report.py`).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.dpo.config import as_dict, parse_config
from training.dpo.data import Pair, read_pairs
from training.dpo.errors import FolderLocked, Stopped, TrainerError
from training.dpo.files import (
    read_json_object,
    read_jsonl,
    sha256_of_file,
    write_json,
    write_text,
)
from training.dpo.guardrails import overfit_rise
from training.dpo.lock import folder_lock
from training.dpo.process import StopFlag
from training.dpo.progress import Line, say
from training.dpo.scored import HELD_OUT_SCORED, by_pair
from training.dpo.status import read_status
from training.dpo.sweep_options import (
    SweepOptions,
    Values,
    parse_options,
    trial_config,
    trials_of,
)
from training.dpo.sweep_report import Trial, rank, table

PAIRS, HELD_OUT = "pairs.jsonl", "held_out.jsonl"
MODELS = ("base_model", "parent_adapter")
MODEL_FILES = {".json", ".safetensors", ".bin", ".jinja", ".model", ".txt"}
"""Suffixes of weights, settings, tokenizer and chat template."""

TICK_SECONDS = 0.2
LOCKED_SECONDS = 60.0
"""How long a trial's trainer of an earlier, killed sweep gets to write its checkpoint."""

KILLED = (
    "it was killed (for memory?); the same command goes on from its newest checkpoint"
)
BEFORE_TRAINING = ("loading", "reading", "reference")
UNCUT = 1 << 40
"""As max_length and vocabulary while tokenising: the trials cut and check."""


def sweep(arguments: Sequence[str], stop: StopFlag) -> None:
    """Do the sweep that the command line asks for and print its ranking.

    Raises TrainerError, FolderLocked, or Stopped once the trials have written their
    checkpoints.
    """
    options = parse_options(arguments)
    if not options.run_dir.is_dir():
        raise TrainerError(f"{options.run_dir} is no folder.")
    config = read_json_object(options.run_dir / "config.json")
    # A trial goes on from its own folder only.
    config.pop("resume_from", None)
    trials = trials_of(config, options.swept)
    folder = options.run_dir / "sweep"
    folder.mkdir(exist_ok=True)
    with folder_lock(folder):
        prompts = _share_rows(options, config, folder, stop)
        for name, values in trials.items():
            _make_trial(folder, name, trial_config(config, values))
        say(f"{len(trials)} trials in {folder}")
        queue = Queue(folder, list(trials), options.jobs, stop)
        ended: set[str] = set()
        for name in queue.run():
            ended.add(name)
            _report(folder, config, trials, prompts, ended)
        report = _report(folder, config, trials, prompts, ended)
    for line in _told(report):
        print(line, flush=True)
    if not report["trials"]:
        reasons = [failed["reason"] for failed in report["failed"]]
        raise TrainerError(f"No trial came to its end: {'; '.join(reasons[:1])}")


def _share_rows(
    options: SweepOptions, config: Mapping[str, Any], folder: Path, stop: StopFlag
) -> dict[int, Any]:
    """Write the rows with their token ids, unless there; {held-out line: its prompt}.

    Lines keep their numbers. With `hold_out`, prompts are set aside by a hash of their
    tokens, so that the same ones are at every start.
    """
    sources = _sources(options)
    made_of = {
        "config": dict(config),
        "hold_out": options.hold_out,
        **{name: sha256_of_file(path) for name, path in sources.items()},
        "models": {key: _files_of(config.get(key)) for key in MODELS},
    }
    about = folder / "made_of.json"
    if about.exists() and read_json_object(about) != made_of:
        raise TrainerError(
            f"{folder} holds trials of another config.json, other rows, another model in"
            " the folder it names or another --hold-out; move it away or delete it to"
            " sweep anew."
        )
    if not about.exists():
        rows = {name: _tokenized(path, config, stop) for name, path in sources.items()}
        if options.hold_out is not None:
            share, lines = options.hold_out, rows[PAIRS]
            aside = {n for n, row in lines.items() if _is_aside(row, share)}
            rows[HELD_OUT] = {n: row for n, row in lines.items() if n in aside}
            rows[PAIRS] = {n: row for n, row in lines.items() if n not in aside}
            for name, what in ((PAIRS, "train on"), (HELD_OUT, "measure")):
                if not rows[name]:
                    raise TrainerError(
                        f"--hold-out {share:g} leaves no pair to {what}; the pairs have"
                        " too few prompts."
                    )
        for name, numbered in rows.items():
            write_text(folder / name, "".join(_at_their_lines(numbered)))
        write_json(about, made_of)
    return {line: _prompt_of(row) for line, row in read_jsonl(folder / HELD_OUT)}


def _files_of(folder: str | None) -> dict[str, str]:
    """{file: sha256} of a model's folder; nothing of a hub id, whose files may come later."""
    if folder is None or not Path(folder).is_dir():
        return {}
    files = sorted(
        path for path in Path(folder).iterdir() if path.suffix in MODEL_FILES
    )
    return {path.name: sha256_of_file(path) for path in files}


def _sources(options: SweepOptions) -> dict[str, Path]:
    found = {PAIRS: options.run_dir / PAIRS}
    held_out = options.run_dir / HELD_OUT
    if not found[PAIRS].exists():
        raise TrainerError(f"{PAIRS} is missing from {options.run_dir}.")
    has_rows = held_out.exists() and any(True for _ in read_jsonl(held_out))
    if has_rows and options.hold_out is not None:
        raise TrainerError(
            f"{options.run_dir} has a {HELD_OUT}; leave --hold-out away to use it."
        )
    if has_rows:
        found[HELD_OUT] = held_out
    elif options.hold_out is None:
        raise TrainerError(
            f"{options.run_dir} has no {HELD_OUT}, and trials are ranked by pairs they"
            " were not trained on: put some pairs there, of prompts that are not in"
            f" {PAIRS}, or give --hold-out 0.2 to set a fifth of the prompts aside."
        )
    return found


def _tokenized(
    path: Path, config: Mapping[str, Any], stop: StopFlag
) -> dict[int, dict[str, Any]]:
    """{line: row with its token ids}; a row that gives no pair, as it is."""
    rows = dict(read_jsonl(path))
    if any(isinstance(row, dict) and "label" in row for row in rows.values()):
        return rows  # single answers: the trials render them
    from training.dpo.base import load_tokenizer

    def each(done: int) -> None:
        stop.check()

    parsed = parse_config(dict(config))
    tokenizer = load_tokenizer(parsed.base_model)
    say(f"{path.name}: {len(rows)} rows to token ids")
    pairs, _ = read_pairs(path, tokenizer, UNCUT, UNCUT, each)
    if not any(len(pair.prompt_ids) < parsed.max_length for pair in pairs):
        raise TrainerError(
            f"{path.name} holds no pair for the trials: those of weight 0, with an empty"
            f" answer or a prompt that fills max_length ({parsed.max_length}) are dropped."
        )
    return rows | {pair.line: rows[pair.line] | _ids(pair) for pair in pairs}


def _ids(pair: Pair) -> dict[str, list[int]]:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return {name: getattr(pair, name) for name in names}


def _at_their_lines(rows: Mapping[int, Any]) -> Iterator[str]:
    """One row a line, blank lines where the others were: errors name the same lines."""
    for line in range(1, max(rows, default=0) + 1):
        row = rows.get(line)
        yield "\n" if row is None else json.dumps(row, ensure_ascii=False) + "\n"


def _prompt_of(row: Mapping[str, Any]) -> str:
    for key in ("prompt_ids", "prompt"):
        if row.get(key) is not None:
            return json.dumps(row[key], sort_keys=True)
    return json.dumps(row, sort_keys=True)


def _is_aside(row: Mapping[str, Any], share: float) -> bool:
    digest = hashlib.sha256(_prompt_of(row).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _make_trial(folder: Path, name: str, config: dict[str, Any]) -> None:
    """The trial's run folder, unless there: links to the rows, config.json."""
    trial = folder / name
    trial.mkdir(exist_ok=True)
    for rows in (PAIRS, HELD_OUT):
        if not (trial / rows).exists():
            _link(folder / rows, trial / rows)
    if config.get("reference_cache") is None:
        config["reference_cache"] = str((folder / "reference-cache").resolve())
    write_json(trial / "config.json", config)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some network filesystems have no links
        shutil.copyfile(source, target)


@dataclass
class Queue:
    """Runs the trials that are not done, `jobs` at a time, and shows how far they are."""

    folder: Path
    names: list[str]
    jobs: int
    stop: StopFlag

    def run(self) -> Iterator[str]:
        """Yield the name of each trial that ends. Raises Stopped, FolderLocked."""
        waiting = [name for name in self.names if self._state(name) != "done"]
        running: dict[str, subprocess.Popen[bytes]] = {}
        locked_at: dict[str, float] = {}
        line, started = Line(), time.monotonic()
        share_at_start = self._share(self.names)
        try:
            while waiting or running:
                if self.stop.requested:
                    self._end(running.values())
                    done = sum(self._state(name) == "done" for name in self.names)
                    raise Stopped(
                        f"stopped with {done} of {len(self.names)} trials done; the same"
                        " command goes on"
                    )
                while waiting and len(running) < self._slots(running):
                    name = waiting.pop(0)
                    running[name] = self._start(name)
                time.sleep(TICK_SECONDS)
                for name in [n for n, p in running.items() if p.poll() is not None]:
                    code = running.pop(name).returncode
                    if code == 73 and self._may_wait(name, locked_at):
                        waiting.append(name)
                    elif code == 75 and not self.stop.requested:
                        # Somebody stopped this one: so that is what they want.
                        self.stop.requested = True
                    else:
                        line.clear()
                        say(f"{name}: {self._end_of(name)}")
                        yield name
                share = self._share(self.names)
                passed = time.monotonic() - started
                line.show(self._line(running, share, share_at_start, passed))
        finally:
            line.clear()
            self._end(running.values())

    def _slots(self, running: Mapping[str, Any]) -> int:
        """One until the reference is known: the others then find it in the cache."""
        known = any(
            status.get("phase") not in (None, *BEFORE_TRAINING)
            for status in map(self._status, self.names)
        )
        return self.jobs if known else 1

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "training.dpo", str(self.folder / name)]
        with open(self.folder / name / "stderr.log", "ab") as log:
            return subprocess.Popen(
                [*command, "--die-with-parent", str(os.getpid())],
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env=self._environment(),
            )

    def _environment(self) -> dict[str, str]:
        """Of a trial: those at once share the processor's cores."""
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        shared = {"OMP_NUM_THREADS": str(threads)} if self.jobs > 1 else {}
        return shared | os.environ

    def _end(self, processes: Iterable["subprocess.Popen[bytes]"]) -> None:
        """Ask for checkpoints and wait for them."""
        processes = list(processes)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()

    def _may_wait(self, name: str, locked_at: dict[str, float]) -> bool:
        since = locked_at.setdefault(name, time.monotonic())
        if time.monotonic() - since > LOCKED_SECONDS:
            raise FolderLocked(
                f"{self.folder / name} is locked by another trainer; wait for it or stop"
                " it first."
            )
        return True

    def _status(self, name: str) -> dict[str, Any]:
        return read_status(self.folder / name)

    def _state(self, name: str) -> str:
        return str(self._status(name).get("state"))

    def _end_of(self, name: str) -> str:
        status = self._status(name)
        if status.get("state") == "failed":
            return f"failed: {status.get('reason')}"
        return "done" if status.get("state") == "done" else KILLED

    def _share(self, names: Sequence[str]) -> float:
        """How much of the sweep is done: 0 to 1."""
        return sum(_part_done(self._status(name)) for name in names) / len(names)

    def _line(
        self,
        running: Mapping[str, Any],
        share: float,
        share_at_start: float,
        passed: float,
    ) -> str:
        told = [f"sweep {share:.0%}"]
        if share > share_at_start:
            left = passed * (1 - share) / (share - share_at_start)
            told.append(
                f"about {left:.0f} s left"
                if left < 120
                else f"{left / 60:.0f} min left"
            )
        for name in running:
            status = self._status(name)
            steps, total = status.get("step"), status.get("total_steps")
            told.append(
                f"{name} {status.get('phase', 'starting')}"
                + (f" {steps}/{total}" if total else "")
            )
        return "; ".join(told)


def _part_done(status: Mapping[str, Any]) -> float:
    if status.get("state") == "done":
        return 1.0
    total = status.get("total_steps")
    return status.get("step", 0) / total if total else 0.0


def _report(
    folder: Path,
    config: Mapping[str, Any],
    trials: Mapping[str, Values],
    prompts: Mapping[int, Any],
    ended: set[str],
) -> dict[str, Any]:
    """Rank the trials that are done and write sweep.json.

    `ended`: those whose process has ended, one way or another.
    """
    done, failed, left = [], [], []
    for name, values in trials.items():
        status = read_status(folder / name)
        if status.get("state") == "done":
            trial = _finished(folder / name, values, config, prompts)
            if isinstance(trial, Trial):
                done.append(trial)
                continue
            status = {"state": "failed", "reason": trial}
        if status.get("state") == "running" and name in ended:
            status = {"state": "failed", "reason": KILLED}
        if status.get("state") == "failed":
            failed.append({"name": name, "reason": status.get("reason")})
        else:
            left.append(name)
    report: dict[str, Any] = rank(done) if done else {"trials": []}
    report |= {"failed": failed, "left": left}
    write_json(folder / "sweep.json", report)
    return report


def _finished(
    folder: Path, values: Values, config: Mapping[str, Any], prompts: Mapping[int, Any]
) -> Trial | str:
    """The trial in a folder that is done, or why it cannot be ranked."""
    summary = read_json_object(folder / "summary.json")
    if summary["held_out"] is None:
        return "all held-out pairs were dropped; its summary.json says why"
    # A loss of single answers scores a pair's two: as a pair it compares with others.
    rows = by_pair([row for _, row in read_jsonl(folder / HELD_OUT_SCORED)])
    weights = {
        line: 1.0 if row.get("weight") is None else float(row["weight"])
        for line, row in read_jsonl(folder / HELD_OUT)
    }
    if any(row[key] is None for row in rows for key in ("right", "margin", "loss")):
        return "a held-out figure is no number"
    end = summary["held_out"]["end"]
    told = {
        "folder": str(folder),
        "drift": {side: end.get(f"drift/{side}") for side in ("chosen", "rejected")},
        "accuracy_on_trained_pairs": summary["final"].get("rewards/accuracies"),
        "lowest_loss": _lowest_loss(folder, len(set(prompts.values()))),
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        "reference": summary["reference"],
    }
    chosen = {name: choice["value"] for name, choice in summary["chosen"].items()}
    return Trial(
        folder.name,
        values,
        as_dict(parse_config(trial_config(config, values))) | chosen,
        rows,
        [prompts[row["line"]] for row in rows],
        [weights[row["line"]] for row in rows],
        told,
    )


def _lowest_loss(folder: Path, prompts: int) -> dict[str, Any] | None:
    """The evaluation of DPO with the lowest held-out loss, if it was not the last."""
    held = [
        (row["eval_loss"], row["step"])
        for _, row in read_jsonl(folder / "metrics.jsonl")
        if row.get("eval_loss") is not None and row["phase"] == "dpo"
    ]
    if not held:
        return None
    loss, step = min(held)
    return {
        "step": step,
        "loss": loss,
        "before_end": held[-1][0] - loss > overfit_rise(prompts),
    }


def _told(report: Mapping[str, Any]) -> Iterator[str]:
    if report["trials"]:
        held = report["held_out"]
        yield (
            f"Ranked by {report['ranked_by']} on {held['pairs']} held-out pairs of"
            f" {held['prompts']} prompts: {report['why']}."
        )
        yield table(report)
    for failed in report["failed"]:
        yield f"failed: {failed['name']}: {failed['reason']}"
    yield from report.get("says", [])

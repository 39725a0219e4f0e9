"""A run from its folder's inputs to its outputs; what `python -m training.dpo` calls.

Loads and prepares, then hands over to the loop (`train.py`) and the outputs
(`outputs.py`). Leaves out the process around it; see `__main__.py`.
"""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from training.dpo.adapter import adapter_scales, without_adapter
from training.dpo.anchor import Anchor
from training.dpo.base import load_tokenizer, pick_device
from training.dpo.batches import rows_of
from training.dpo.canary import canary_token_ids, sequence_logprobs
from training.dpo.check import make_engine
from training.dpo.checkpoint import load_checkpoint
from training.dpo.config import TrainingConfig, as_dict, load_config, loss_weights
from training.dpo.data import Pair, RowReport, digest_of, read_pairs
from training.dpo.defaults import settle
from training.dpo.distributed import from_main, is_main, run_lock
from training.dpo.ending import common_ending, speak_for_main
from training.dpo.errors import PeerLost, Stopped, TrainerError
from training.dpo.files import sha256_of_file
from training.dpo.layout import plan_layout
from training.dpo.loss import objective_of
from training.dpo.loss_facts import is_unpaired
from training.dpo.metrics_log import MetricsLog
from training.dpo.outputs import Prepared, write_outputs
from training.dpo.phases import dpo_schedule, plan_phases
from training.dpo.positions import most_tokens, refuse_too_long
from training.dpo.preflight import check_room, look_ahead
from training.dpo.process import StopFlag
from training.dpo.progress import say
from training.dpo.reference import FixedLogps, PairSet, ReferenceStore
from training.dpo.resume import resume_source
from training.dpo.run_state import Run
from training.dpo.status import StatusFile
from training.dpo.strays import with_strays
from training.dpo.train import train
from training.dpo.tuning import make_trainable, open_base
from training.dpo.weight_hash import hash_tensors, remembered_hash

UNTOLD_KEYS = ("base_model", "parent_adapter", "resume_from", "reference_cache")
"""Config keys that name places; the hash of what lies there counts instead."""

CHANGEABLE_KEYS = (
    *("logging_steps", "save_steps", "eval_steps", "sharding"),
    *("micro_batch_size", "savings"),
    *("learning_rate", "sft_learning_rate", "max_grad_norm"),
)
"""Config keys that may change before a resume: those of the first line do not touch the
weights, those of the second by rounding only (with lora.dropout other numbers are drawn)
and fit a run into memory, the others let it go on more carefully after a loss that was
no number."""

ROWS_A_LOOK = 64
"""Rows read between two looks at whether a stop was asked for: some hundredths of a
second."""


def run_folder(run_dir: Path, stop: StopFlag) -> None:
    """Do the run in `run_dir`.

    Raises FolderLocked (and writes nothing) if another trainer is at it; Stopped and
    TrainerError once status.json says so; any other exception likewise.
    """
    with run_lock(run_dir):
        status = StatusFile(run_dir, is_main())
        try:
            status.phase("loading")
            stop.check()
            _run(run_dir, stop, status)
        except Exception as error:
            ending = common_ending(explained(error))
            state = "stopped" if isinstance(ending, Stopped) else "failed"
            with suppress(OSError):  # a disk so full that stderr alone can tell
                status.finish(state, str(ending))
            if isinstance(ending, PeerLost) and not is_main():
                speak_for_main(run_dir, ending)
            if ending is error:
                raise
            raise ending from error
        status.finish("done")


def check_folder(run_dir: Path, stop: StopFlag) -> None:
    """Look at the run in `run_dir` without doing it: preflight.json, and what it says.

    Neither status.json nor anything of a run that was done is touched. Raises
    FolderLocked, TrainerError.
    """
    with run_lock(run_dir):
        status = StatusFile(run_dir, writes=False)
        config = load_config(run_dir / "config.json")
        try:
            stop.check()
            look_ahead(
                prepare(run_dir, config, stop, status, is_check=True), is_check=True
            )
        except Exception as error:
            ending = common_ending(explained(error))
            if ending is error:
                raise
            raise ending from error


def explained(error: Exception) -> Exception:
    """`error`, or a TrainerError in plain words where its cause is well known."""
    cpu_is_full = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if cpu_is_full or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return TrainerError(
            "Out of memory: set micro_batch_size to 1 and savings.side_by_side to false"
            " and resume, or lower max_length in a fresh run folder."
        )
    full = ("No space left on device", "Disk quota exceeded")
    if any(words in str(error) for words in full):
        return TrainerError("The disk is full; free some space and resume.")
    return error


def _run(run_dir: Path, stop: StopFlag, status: StatusFile) -> None:
    started = time.monotonic()
    config = load_config(run_dir / "config.json")
    prepared = prepare(run_dir, config, stop, status)
    look_ahead(prepared, is_resumed=resume_source(run_dir, config) is not None)
    stop.check()
    position = train(prepared.run)
    stop.check()
    check_room(prepared.run)
    write_outputs(prepared, position, started)
    prepared.run.anchor.drop_weights()


def prepare(
    run_dir: Path,
    config: TrainingConfig,
    stop: StopFlag,
    status: StatusFile,
    is_check: bool = False,
) -> Prepared:
    """Load everything and take the reference, which `is_check` leaves at zero."""
    started = time.monotonic()
    device = pick_device()
    source = resume_source(run_dir, config)
    earlier = load_checkpoint(source)[1] if source is not None else {}
    if "threads" in earlier:
        # Sums depend on how they are split among threads.
        torch.set_num_threads(earlier["threads"])
        status.progress(step=earlier["step"])
    # A template that prints the date makes of the pairs after midnight what it did before.
    rendered_at = earlier.get("rendered_at") or from_main(
        datetime.now().isoformat(timespec="seconds")
    )
    tokenizer = load_tokenizer(config.base_model, datetime.fromisoformat(rendered_at))
    base = open_base(config, device)
    base_parameters = base.num_parameters()
    # Now, because a template that refuses them should not waste a training.
    canary_ids = canary_token_ids(
        tokenizer, base.get_input_embeddings().weight.shape[0]
    )
    stop.check()
    pairs, held_out, reports = _read_data(
        run_dir, config, tokenizer, base, stop, status
    )
    refuse_too_long(base, {"pairs.jsonl": pairs, "held_out.jsonl": held_out})
    settled = settle(config, base_parameters, len(pairs))
    layout, keeps_input_only = plan_layout(
        config, base, device, tokenizer, pairs, earlier
    )
    store = _reference_store(run_dir, config, source)
    memo = store.cache / "weights.json"
    hashes = {"base": _base_hash(base, config, memo)}
    stop.check()
    model, parameters = make_trainable(base, config, device)
    engine = make_engine(
        model,
        layout,
        config.savings,
        rows_of(pairs[:1]),
        config.max_length,
        keeps_input_only,
    )
    if engine.kind != "fused":
        say(f"Forward passes as {engine.kind} ({engine.why}).")
    if config.tuning != "full":
        hashes["adapter_at_start"] = hash_tensors(parameters)
    with without_adapter(model):
        base_logprobs = sequence_logprobs(engine, canary_ids)
    for name in ("pairs.jsonl", "held_out.jsonl"):
        if (run_dir / name).exists():
            hashes[name] = sha256_of_file(run_dir / name)
    told = {k: v for k, v in as_dict(config).items() if k not in UNTOLD_KEYS}
    hashes["config"] = _digest(told)
    start = [hashes.get("adapter_at_start"), adapter_scales(model)]
    fingerprint = {
        **{
            f'"{key}" in config.json': _digest(value)
            for key, value in told.items()
            if key not in CHANGEABLE_KEYS
        },
        "the base model": hashes["base"],
        "the adapter at the start": _digest(start),
    }
    for name, rows in (("pairs.jsonl", pairs), ("held_out.jsonl", held_out)):
        fingerprint[name] = hashes.get(name, "")
        made = f"what tokenizer and chat template make of {name}"
        fingerprint[made] = digest_of(rows)
    loaded = time.monotonic()
    folders = [run_dir, *([source.parent.parent] if source is not None else [])]
    anchor = Anchor(engine, folders, store, hashes["base"], stop, status)

    objective = objective_of(config)

    def measured(some: list[Pair]) -> PairSet:
        if is_check:
            nothing = FixedLogps.none(len(some))
            return PairSet(some, nothing, nothing)
        reference = base = anchor.under_base(some)
        # A fresh adapter changes nothing yet: the start is the base.
        has_parent = config.parent_adapter is not None
        starts_here = config.reference == "start" and not config.sft_epochs
        if not objective.has_reference:
            reference = FixedLogps.none(len(some))
        elif starts_here and has_parent:
            reference = anchor.under_adapter(
                some, hashes["adapter_at_start"], objective.ld_alpha
            )
        elif objective.ld_alpha is not None:
            reference = anchor.under_base(some, objective.ld_alpha)
        return PairSet(some, reference, base)

    if objective.unpaired:
        schedule = dpo_schedule(config, settled, len(pairs))
        # A stray joins another prompt: it too must not be too long for the model.
        longest = min(config.max_length, most_tokens(base) or config.max_length)
        pairs = with_strays(pairs, schedule.first_epoch(), longest)
        in_order = replace(schedule, pairs=len(held_out), shuffle=False)
        held_out = with_strays(held_out, in_order.first_epoch(), longest)
    data = measured(pairs)
    held = measured(held_out) if held_out else None
    run = Run(
        folder=run_dir,
        config=config,
        settled=settled,
        phases=plan_phases(config, settled, pairs),
        objective=objective,
        engine=engine,
        model=model,
        parameters=parameters,
        data=data,
        held_out=held,
        fingerprint=fingerprint,
        rendered_at=rendered_at,
        stop=stop,
        status=status,
        log=MetricsLog(run_dir / "metrics.jsonl"),
        anchor=anchor,
    )
    seconds = {"loading": loaded - started, "reference": time.monotonic() - loaded}
    return Prepared(
        run,
        tokenizer,
        canary_ids,
        base_parameters,
        base_logprobs,
        reports,
        hashes,
        seconds,
        store,
    )


def _read_data(
    run_dir: Path,
    config: TrainingConfig,
    tokenizer: Any,
    base: Any,
    stop: StopFlag,
    status: StatusFile,
) -> tuple[list[Pair], list[Pair], dict[str, RowReport]]:
    vocabulary = base.get_input_embeddings().weight.shape[0]
    unpaired = is_unpaired(loss_weights(config))

    def each(rows: int) -> None:
        if rows % ROWS_A_LOOK == 0:
            stop.check()
        status.progress(phase_done=rows)

    def read(name: str) -> tuple[list[Pair], RowReport]:
        status.phase("reading")
        return read_pairs(
            run_dir / name,
            tokenizer,
            config.max_length,
            vocabulary,
            each,
            unpaired,
        )

    pairs, report = read("pairs.jsonl")
    reports = {"pairs.jsonl": report}
    if not pairs:
        why = "; ".join(f"{len(n)}: {reason}" for reason, n in report.dropped.items())
        raise TrainerError(
            f"pairs.jsonl holds no pair to train on ({report.read} rows"
            f"{', dropped ' + why if why else ''})."
        )
    held_out: list[Pair] = []
    if (run_dir / "held_out.jsonl").exists():
        held_out, reports["held_out.jsonl"] = read("held_out.jsonl")
    for name, told in reports.items():
        for reason, lines in (*told.dropped.items(), *told.cut.items()):
            say(f"{name}: {len(lines)} of {told.read} rows: {reason}")
    return pairs, held_out, reports


def _base_hash(base: Any, config: TrainingConfig, memo: Path) -> str:
    found = remembered_hash(base, config.base_model, memo) if is_main() else ""
    return str(from_main(found))


def _reference_store(
    run_dir: Path, config: TrainingConfig, source: Path | None
) -> ReferenceStore:
    own = run_dir / "reference"
    earlier = [source.parent.parent / "reference"] if source is not None else []
    cache = config.reference_cache
    return ReferenceStore(Path(cache) if cache is not None else own, [own, *earlier])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

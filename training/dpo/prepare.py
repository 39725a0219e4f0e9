"""A run made ready for its first step: model, rows, log-probs that do not change.

Everything that can be wrong with a run folder is found here. Leaves out training
(`train.py`) and what is said of the run before it (`preflight.py`).
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from training.dpo.adapter import adapter_scales, without_adapter
from training.dpo.anchor import Anchor
from training.dpo.answer_step import needs_kl
from training.dpo.base import load_tokenizer, pick_device
from training.dpo.batches import rows_of
from training.dpo.canary import canary_token_ids, sequence_logprobs
from training.dpo.check import make_engine
from training.dpo.checkpoint import load_checkpoint
from training.dpo.config import TrainingConfig, as_dict, loss_weights
from training.dpo.data import Pair, RowReport, digest_of, read_pairs
from training.dpo.defaults import Settled, settle
from training.dpo.distributed import from_main, is_main
from training.dpo.errors import TrainerError
from training.dpo.files import sha256_of_file
from training.dpo.layout import plan_layout
from training.dpo.loss import Objective, objective_of
from training.dpo.loss_facts import is_unpaired
from training.dpo.machine import give_back_memory
from training.dpo.metrics_log import MetricsLog
from training.dpo.outputs import Prepared
from training.dpo.phases import dpo_schedule, plan_phases
from training.dpo.positions import most_tokens, refuse_too_long
from training.dpo.process import StopFlag
from training.dpo.progress import say
from training.dpo.reference import FixedLogps, PairSet, ReferenceStore
from training.dpo.resume import resume_source
from training.dpo.run_state import Run
from training.dpo.status import StatusFile
from training.dpo.strays import with_strays
from training.dpo.tuning import make_trainable, open_base
from training.dpo.weight_hash import hash_tensors, remembered_hash

PAIRS, HELD_OUT = "pairs.jsonl", "held_out.jsonl"

Rows = dict[str, list[Pair]]
"""{PAIRS: …, HELD_OUT: …}; the latter empty where there are none."""

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


def prepare(
    run_dir: Path,
    config: TrainingConfig,
    stop: StopFlag,
    status: StatusFile,
    is_check: bool = False,
) -> Prepared:
    """Load everything and take the reference, which `is_check` leaves at zero.

    Raises TrainerError, Stopped.
    """
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
    rows, reports = _read_data(run_dir, config, tokenizer, base, stop, status)
    refuse_too_long(base, rows)
    settled = settle(config, base_parameters, len(rows[PAIRS]))
    layout, keeps_input_only = plan_layout(
        config, base, device, tokenizer, rows[PAIRS], earlier
    )
    store = _reference_store(run_dir, config, source)
    hashes = {"base": _base_hash(base, config, store.cache / "weights.json")}
    stop.check()
    model, parameters = make_trainable(base, config, device)
    engine = make_engine(
        model,
        layout,
        config.savings,
        rows_of(rows[PAIRS][:1]),
        config.max_length,
        keeps_input_only,
    )
    if engine.kind != "fused":
        say(f"Forward passes as {engine.kind} ({engine.why}).")
    if config.tuning != "full":
        hashes["adapter_at_start"] = hash_tensors(parameters)
    with without_adapter(model):
        base_logprobs = sequence_logprobs(engine, canary_ids)
    give_back_memory()
    told = {k: v for k, v in as_dict(config).items() if k not in UNTOLD_KEYS}
    hashes |= {name: sha256_of_file(run_dir / name) for name in reports}
    hashes["config"] = _digest(told)
    fingerprint = _fingerprint(told, hashes, adapter_scales(model), rows)
    loaded = time.monotonic()
    folders = [run_dir, *([source.parent.parent] if source is not None else [])]
    anchor = Anchor(engine, folders, store, hashes["base"], stop, status)
    objective = objective_of(config)
    if needs_kl(objective):
        rows = _with_strays(rows, config, settled, base)

    def measured(pairs: list[Pair]) -> PairSet:
        if is_check:
            nothing = FixedLogps.none(len(pairs))
            return PairSet(pairs, nothing, nothing)
        return _measured(pairs, config, objective, anchor, hashes)

    data = measured(rows[PAIRS])
    held_out = measured(rows[HELD_OUT]) if rows[HELD_OUT] else None
    run = Run(
        folder=run_dir,
        source=source,
        config=config,
        settled=settled,
        phases=plan_phases(config, settled, rows[PAIRS]),
        objective=objective,
        engine=engine,
        model=model,
        parameters=parameters,
        data=data,
        held_out=held_out,
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


def _fingerprint(
    config: Mapping[str, Any], hashes: Mapping[str, str], scales: Any, rows: Rows
) -> dict[str, str]:
    """{what a resume must find as it was: its digest}, in the words of its refusal.

    `scales`: what the adapter's layers multiply their products by.
    """
    found = {
        f'"{key}" in config.json': _digest(value)
        for key, value in config.items()
        if key not in CHANGEABLE_KEYS
    }
    found["the base model"] = hashes["base"]
    start = [hashes.get("adapter_at_start"), scales]
    found["the adapter at the start"] = _digest(start)
    for name, members in rows.items():
        found[name] = hashes.get(name, "")
        found[f"what tokenizer and chat template make of {name}"] = digest_of(members)
    return found


def _with_strays(
    rows: Rows, config: TrainingConfig, settled: Settled, base: Any
) -> Rows:
    """Labelled answers with strays from their steps; a held-out set's from its order."""
    schedule = dpo_schedule(config, settled, len(rows[PAIRS]))
    in_order = replace(schedule, pairs=len(rows[HELD_OUT]), shuffle=False)
    # A stray joins another prompt: it too must not be too long for the model.
    longest = min(config.max_length, most_tokens(base) or config.max_length)
    return {
        PAIRS: with_strays(rows[PAIRS], schedule.first_epoch(), longest),
        HELD_OUT: with_strays(rows[HELD_OUT], in_order.first_epoch(), longest),
    }


def _measured(
    pairs: list[Pair],
    config: TrainingConfig,
    objective: Objective,
    anchor: Anchor,
    hashes: Mapping[str, str],
) -> PairSet:
    """Log-probs under the base and, as far as it is known before the first step, under
    the reference.
    """
    reference = base = anchor.under_base(pairs)
    # A fresh adapter changes nothing yet: the start is the base.
    has_parent = config.parent_adapter is not None
    starts_here = config.reference == "start" and not config.sft_epochs
    if not objective.has_reference:
        reference = FixedLogps.none(len(pairs))
    elif starts_here and has_parent:
        start = hashes["adapter_at_start"]
        reference = anchor.under_adapter(pairs, start, objective.ld_alpha)
    elif objective.ld_alpha is not None:
        reference = anchor.under_base(pairs, objective.ld_alpha)
    return PairSet(pairs, reference, base)


def _read_data(
    run_dir: Path,
    config: TrainingConfig,
    tokenizer: Any,
    base: Any,
    stop: StopFlag,
    status: StatusFile,
) -> tuple[Rows, dict[str, RowReport]]:
    """(rows, what became of each file that is there)."""
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

    pairs, report = read(PAIRS)
    rows, reports = {PAIRS: pairs, HELD_OUT: []}, {PAIRS: report}
    if not pairs:
        why = "; ".join(f"{len(n)}: {reason}" for reason, n in report.dropped.items())
        raise TrainerError(
            f"pairs.jsonl holds no pair to train on ({report.read} rows"
            f"{', dropped ' + why if why else ''})."
        )
    if (run_dir / HELD_OUT).exists():
        rows[HELD_OUT], reports[HELD_OUT] = read(HELD_OUT)
    for name, told in reports.items():
        for reason, lines in (*told.dropped.items(), *told.cut.items()):
            say(f"{name}: {len(lines)} of {told.read} rows: {reason}")
    return rows, reports


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

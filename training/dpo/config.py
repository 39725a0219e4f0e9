"""config.json of a run folder: every key, its meaning, its default, its check.

Anything absent takes the default below; a default of None that says "chosen" is
settled from the model and the data by `defaults.py` and reported in summary.json.
Anything unknown is an error naming it.
"""

import difflib
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.dpo.elsewhere import LOSSES_ELSEWHERE, SAID_ELSEWHERE
from training.dpo.errors import TrainerError
from training.dpo.files import read_json_object
from training.dpo.loss_facts import (
    LOSS_FACTS,
    facts_of,
    is_unpaired,
    names_that,
    reads_reference,
)

LOSS_NAMES = list(LOSS_FACTS)
SEEDS = 1 << 64
"""How many torch's generators tell apart; a larger seed is taken modulo this."""

FRESH_RANK = 16
"""Of a fresh adapter, where `lora.r` is not given."""

SCHEDULERS = ("linear", "cosine", "constant")

SMALLEST, LARGEST = 1e-38, 1e38
"""Of any number but 0: float32 makes 0 or infinity of what lies beyond."""

MOST = {
    "epochs": 1e6,
    "sft_epochs": 1e6,
    "lora.r": 1 << 14,
    "seed": float("inf"),
}
"""Of numbers that are no factor: a run that ends, a rank that a model could hold, a seed
that is taken modulo `SEEDS` anyhow."""


@dataclass(frozen=True)
class LoraConfig:
    """Shape of the adapter. None: the parent adapter's, or for a fresh one as said."""

    r: int | None = None
    """Rank; 16 for a fresh adapter."""

    alpha: float | None = None
    """Scale: the update is multiplied by alpha / r; 2 r for a fresh adapter."""

    dropout: float = 0.0
    """Dropout on the adapter's input while training. TRL silently sets it to 0; here
    it is used if asked for."""

    target_modules: str | list[str] | None = None
    """"all-linear" (default for a fresh adapter: every linear layer but the head, and
    but out_proj of Mamba's kin, which PEFT refuses), or module names such as
    ["q_proj", "v_proj"]. Beside a parent adapter they must be its own."""


@dataclass(frozen=True)
class Savings:
    """What a run may spare. None of it changes a result beyond rounding, nor which
    pairs make up an optimizer step; each can be switched off to measure its gain."""

    pack: bool = True
    """Rows of a forward pass as one sequence without padding; false: padded rows
    through transformers' own code, and none of the rest."""

    share_prefixes: bool = True
    """What rows of a pass begin with alike is computed once."""

    split_attention: bool = True
    """Each piece of a row meets its own past only; false: the whole packed sequence
    squared under a mask, through transformers' layers."""

    fused_layers: bool = True
    """Layers of Llama's structure through our own forward and backward pass; false:
    transformers' layers under autograd."""

    skip_unscored: bool = True
    """The last layer computes only states that predict an answer token (with
    fused_layers)."""

    fast_products: bool = True
    """float32 matrix products on a CPU by oneDNN where it works."""

    side_by_side: bool = True
    """Several forward passes at once on a CPU, a thread each (with fused_layers), as
    many as memory holds; false: one, all threads on it."""

    checkpointing: bool | str = "auto"
    """Layers, ours and transformers', keep their input only and compute again for the
    backward pass; "auto": if a memory estimate asks for it."""


@dataclass(frozen=True)
class TrainingConfig:
    """One DPO run. See the docstring under each field."""

    base_model: str
    """Folder or hub id of the base model. Written as it stands into the adapter's
    `base_model_name_or_path`. Required."""

    parent_adapter: str | None = None
    """Folder of the PEFT adapter to go on from; None: a fresh adapter."""

    reference: str = "start"
    """"start": the weights DPO starts from, after any supervised training; "base": the
    base model without adapter; "none": for losses without a reference (simpo, orpo,
    sft), which take none in any case, but for the rewards shown of "sft"."""

    tuning: str = "lora"
    """"lora"; "qlora": the same on a base in 4 bits, which needs bitsandbytes; "full":
    every weight trains, and `model/` is written instead of `adapter/`."""

    sharding: str = "auto"
    """Of the weights under torchrun: "none": each process holds all of them; "full":
    each holds its part (FSDP2); "auto": "full" for full fine-tuning and for a base that
    does not fit one GPU. With one process nothing is sharded."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Shape of the adapter."""

    dtype: str = "auto"
    """Of the base weights: "float32", "bfloat16", or "auto" (bfloat16 on a GPU that
    has it, and on a CPU that has it if the checkpoint is 16-bit; else float32). The
    adapter, its optimizer and the saved file stay float32."""

    loss: str | dict[str, float] = "sigmoid"
    """A loss's name, or names with weights: {"sigmoid": 1.0, "sft": 0.2}. See
    `loss_facts.py` for all of them."""

    beta: float = 0.1
    """DPO's temperature; larger keeps nearer to the reference. What is usual depends on
    the loss (`loss_facts.py`): 0.01–0.5 for most, 2–10 where log-probs are per token."""

    label_smoothing: float = 0.0
    """Share of pairs assumed flipped, 0 ≤ ε < 0.5, in the losses that have it: sigmoid
    (then conservative DPO, eq. 3 of https://ericmitchell.ai/cdpo.pdf; TRL ignores it
    there), robust, exo_pair (which needs it), aot, aot_unpaired, simpo."""

    ld_alpha: float | None = None
    """LD-DPO (https://arxiv.org/abs/2409.06411): weight, 0–1, of an answer's tokens
    beyond the length of the shorter one, under policy and reference; None: 1."""

    simpo_gamma: float = 0.5
    """SimPO's target margin, in rewards."""

    discopop_tau: float = 0.05
    """DiscoPOP's temperature."""

    desirable_weight: float = 1.0
    """KTO: weight of desirable answers."""

    undesirable_weight: float = 1.0
    """KTO: weight of undesirable answers. Where they are n times as many as desirable
    ones, 1/n to 4/3n balances them (https://arxiv.org/abs/2402.01306, eq. 8)."""

    sft_epochs: float = 0
    """Passes over the chosen answers in supervised training before DPO; 0: none."""

    sft_learning_rate: float | None = None
    """Peak learning rate of that stage; None: chosen by model size."""

    learning_rate: float | None = None
    """Peak learning rate; None: chosen by model size."""

    epochs: float | None = None
    """Passes over the pairs; None: chosen for some 100 updates
    or more where the data is small."""

    batch_size: int | None = None
    """Pairs per optimizer step, over all processes; None: chosen."""

    micro_batch_size: int | None = None
    """Pairs per forward pass; None: chosen by memory. Changes no result beyond
    rounding."""

    max_length: int = 1024
    """Tokens of prompt and answer together. An answer beyond it is cut at its end; a
    pair whose prompt fills it is dropped. Both are counted in summary.json."""

    warmup_ratio: float = 0.1
    """Share of a phase's steps over which the learning rate rises from 0; a phase of one
    step is at its peak."""

    lr_scheduler: str = "linear"
    """After the warm-up: "linear" or "cosine" to 0, or "constant"."""

    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, on the adapter's weights."""

    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; None: left as they are."""

    seed: int = 42
    """Of the fresh adapter's weights, the order of the pairs and dropout."""

    shuffle: bool = True
    """A new order of the pairs each epoch; false: the file's order."""

    logging_steps: int = 1
    """Write every n-th step to metrics.jsonl; evaluated steps and the last one are
    always written. Each line is about its own step, not a mean over the steps
    between."""

    save_steps: int | None = None
    """Checkpoint every n steps; None: whenever a minute has passed. One is always
    written at a stop and after the last step."""

    eval_steps: int | None = None
    """Evaluate held_out.jsonl every n steps; None: some ten times a run, less often
    where that would cost more than a tenth of training. Always before the first and
    after the last step."""

    savings: Savings = field(default_factory=Savings)
    """What may be spared; all by default."""

    resume_from: str | None = None
    """A checkpoint folder, or another run folder (its newest complete checkpoint), to
    go on from when this folder has no checkpoint of its own."""

    reference_cache: str | None = None
    """Folder of log-probs under weights that do not change (reference, base), found by
    content and shared by any number of runs at once; None: `reference/` in the run
    folder. Deleting it costs computing only."""


def load_config(path: Path) -> TrainingConfig:
    """Read and check config.json; TrainerError names the key and the way out."""
    return parse_config(read_json_object(path))


def parse_config(values: dict[str, Any]) -> TrainingConfig:
    """Check a config.json already read. Raises TrainerError."""
    _refuse_unknown(values, [f.name for f in fields(TrainingConfig)], "")
    if "base_model" not in values:
        raise TrainerError('config.json lacks "base_model": a folder or a hub id.')
    checked = dict(values)
    if checked.get("lora") is None:
        checked.pop("lora", None)
    if "lora" in checked:
        found = checked["lora"]
        _require(isinstance(found, dict), "lora", "an object", found)
        _refuse_unknown(found, [f.name for f in fields(LoraConfig)], "lora.")
        checked["lora"] = LoraConfig(**found)
    if checked.get("savings") is None:
        checked.pop("savings", None)
    if "savings" in checked:
        found = checked["savings"]
        _require(isinstance(found, dict), "savings", "an object", found)
        _refuse_unknown(found, [f.name for f in fields(Savings)], "savings.")
        checked["savings"] = Savings(**found)
    config = TrainingConfig(**checked)
    _check_values(config)
    return config


def as_dict(config: TrainingConfig) -> dict[str, Any]:
    """The config with all defaults, as JSON values."""
    return asdict(config)


def loss_weights(config: TrainingConfig) -> dict[str, float]:
    """{loss name: weight}, whichever way `loss` was written."""
    return {config.loss: 1.0} if isinstance(config.loss, str) else dict(config.loss)


def _refuse_unknown(values: dict[str, Any], known: list[str], prefix: str) -> None:
    for key in values:
        if key in known:
            continue
        meant = SAID_ELSEWHERE.get(key) if not prefix else None
        if meant is not None:
            raise TrainerError(f'config.json: unknown key "{key}"; here it is {meant}.')
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        raise TrainerError(
            f'config.json: unknown key "{prefix}{key}"; the nearest known one is'
            f' "{prefix}{near[0]}".'
        )


def _require(holds: bool, key: str, wanted: str, found: Any) -> None:
    if not holds:
        raise TrainerError(f'config.json: "{key}" must be {wanted}, not {found!r}.')


def is_number(value: Any) -> bool:
    """Whether it is one that a float can hold: not NaN, not infinite, not 400 digits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(
    config: Any,
    key: str,
    least: float,
    *,
    above: bool = False,
    below: float | None = None,
    most: float | None = None,
    integer: bool = False,
    optional: bool = False,
    prefix: str = "",
) -> None:
    value = getattr(config, key)
    if value is None and optional:
        return
    wanted = "a whole number" if integer else "a number"
    wanted += f" above {least:g}" if above else f" of at least {least:g}"
    if below is not None:
        wanted += f" and below {below:g}"
    if most is not None:
        wanted += f" and at most {most:g}"
    if optional:
        wanted += " or null"
    holds = _is_integer(value) if integer else is_number(value)
    holds = holds and (value > least if above else value >= least)
    holds = holds and (below is None or value < below)
    holds = holds and (most is None or value <= most)
    _require(holds, prefix + key, wanted, value)
    smallest = least if integer else SMALLEST
    largest = MOST.get(prefix + key, below or most or LARGEST)
    zero = not (above or least)
    _require_within(prefix + key, value, smallest, largest, zero=zero)


def _require_within(
    key: str,
    value: float,
    least: float = SMALLEST,
    most: float = LARGEST,
    *,
    zero: bool = False,
) -> None:
    """Refuse a number, already known to be of the right kind, of no sensible size."""
    wanted = "0 or " * zero + f"between {least:g} and {most:g}"
    _require(value == 0 or least <= value <= most, key, wanted, value)


def _choice(config: Any, key: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, key)
    wanted = "one of " + ", ".join(f'"{name}"' for name in allowed)
    _require(isinstance(value, str) and value in allowed, key, wanted, value)


def _check_values(config: TrainingConfig) -> None:
    base = config.base_model
    _require(isinstance(base, str) and bool(base), "base_model", "a text", base)
    for key in ("parent_adapter", "resume_from", "reference_cache"):
        value = getattr(config, key)
        text = value is None or (isinstance(value, str) and bool(value))
        _require(text, key, "a path or null", value)
    _choice(config, "reference", ("start", "base", "none"))
    _choice(config, "tuning", ("lora", "qlora", "full"))
    _choice(config, "sharding", ("auto", "none", "full"))
    if config.tuning == "full" and config.parent_adapter is not None:
        raise TrainerError(
            'config.json: "tuning": "full" trains the base itself; leave out'
            ' "parent_adapter", or merge it into a base first (PEFT merge_and_unload).'
        )
    if config.tuning == "qlora" and config.sharding == "full":
        raise TrainerError(
            'config.json: "sharding": "full" does not split 4-bit weights; leave it out'
            ' or use "tuning": "lora".'
        )
    _choice(config, "dtype", ("auto", "float32", "bfloat16"))
    _choice(config, "lr_scheduler", SCHEDULERS)
    _require(
        isinstance(config.shuffle, bool), "shuffle", "true or false", config.shuffle
    )
    _check_lora(config.lora)
    _check_savings(config.savings)
    _check_loss(config.loss)
    _number(config, "beta", 0, above=True)
    _number(config, "label_smoothing", 0, below=0.5)
    _number(config, "ld_alpha", 0, most=1, optional=True)
    _number(config, "simpo_gamma", 0)
    _number(config, "discopop_tau", 0, above=True)
    _number(config, "desirable_weight", 0)
    _number(config, "undesirable_weight", 0)
    _check_objective(config)
    _number(config, "sft_epochs", 0)
    _number(config, "sft_learning_rate", 0, above=True, optional=True)
    _number(config, "learning_rate", 0, above=True, optional=True)
    _number(config, "epochs", 0, above=True, optional=True)
    _number(config, "max_length", 2, integer=True)
    _number(config, "warmup_ratio", 0, below=1)
    _number(config, "weight_decay", 0)
    _number(config, "max_grad_norm", 0, above=True, optional=True)
    _number(config, "seed", 0, integer=True)
    _number(config, "logging_steps", 1, integer=True)
    for key in ("batch_size", "micro_batch_size", "save_steps", "eval_steps"):
        _number(config, key, 1, integer=True, optional=True)


def _check_savings(savings: Savings) -> None:
    for name, value in asdict(savings).items():
        auto = name == "checkpointing" and value == "auto"
        wanted = 'true, false or "auto"' if name == "checkpointing" else "true or false"
        _require(isinstance(value, bool) or auto, f"savings.{name}", wanted, value)


def _check_lora(lora: LoraConfig) -> None:
    _number(lora, "r", 1, integer=True, optional=True, prefix="lora.")
    _number(lora, "alpha", 0, above=True, optional=True, prefix="lora.")
    _number(lora, "dropout", 0, below=1, prefix="lora.")
    names = lora.target_modules
    listed = (
        isinstance(names, list) and names and all(isinstance(n, str) for n in names)
    )
    _require(
        names is None or names == "all-linear" or bool(listed),
        "lora.target_modules",
        'null, "all-linear" or a list of module names',
        names,
    )
    if isinstance(names, list) and any(n.split(".")[-1] == "lm_head" for n in names):
        raise TrainerError(
            'config.json: "lora.target_modules" must not name "lm_head": the head is'
            " read directly and an adapter on it would never be trained."
        )


def _check_loss(loss: Any) -> None:
    if isinstance(loss, dict):
        _require(bool(loss), "loss", "a loss's name or {name: weight}", loss)
        for name, weight in loss.items():
            positive = is_number(weight) and weight > 0
            _require(positive, f"loss.{name}", "a number above 0", weight)
            _require_within(f"loss.{name}", weight)
        names = list(loss)
    else:
        _require(isinstance(loss, str), "loss", "a loss's name or {name: weight}", loss)
        names = [loss]
    for name in names:
        if name not in LOSS_NAMES:
            lower = name.lower()
            near = difflib.get_close_matches(lower, LOSS_NAMES, n=1, cutoff=0.0)
            meant = LOSSES_ELSEWHERE.get(lower)
            told = (
                f'the nearest is "{near[0]}"'
                if meant is None
                else f"here it is {meant}"
            )
            raise TrainerError(f'config.json: "loss" knows no "{name}"; {told}.')


def _check_objective(config: TrainingConfig) -> None:
    """What the chosen losses need, and what they would silently ignore."""
    names = list(loss_weights(config))
    shown = ", ".join(f'"{name}"' for name in names)
    if is_unpaired(names) and not all(facts.unpaired for facts in facts_of(names)):
        raise TrainerError(
            f'config.json: "loss" mixes losses of pairs and of single answers ({shown});'
            f" {names_that(unpaired=True)} do not go with others."
        )
    if config.reference == "none" and reads_reference(names, "none"):
        raise TrainerError(
            f'config.json: "reference": "none" does not go with {shown}; losses without'
            f" a reference are {names_that(needs_reference=False)}."
        )
    if "kto" in names and config.batch_size == 1:
        raise TrainerError(
            'config.json: "batch_size" must be at least 2 for "kto", which measures each'
            " answer against the others of its step; 4 or more is better."
        )
    if "exo_pair" in names and not config.label_smoothing:
        raise TrainerError(
            'config.json: "label_smoothing" must be above 0 for "exo_pair"; its paper'
            " has 0.001."
        )
    for key, unset, users in (
        ("label_smoothing", 0, names_that(smoothing=True)),
        ("ld_alpha", None, names_that(ld_alpha=True)),
        ("simpo_gamma", _default("simpo_gamma"), '"simpo"'),
        ("discopop_tau", _default("discopop_tau"), '"discopop"'),
        ("desirable_weight", _default("desirable_weight"), names_that(unpaired=True)),
        (
            "undesirable_weight",
            _default("undesirable_weight"),
            names_that(unpaired=True),
        ),
    ):
        used = any(f'"{name}"' in users for name in names)
        if getattr(config, key) != unset and not used:
            raise TrainerError(
                f'config.json: "{key}" changes nothing with {shown}; it is for {users}.'
            )


def _default(key: str) -> Any:
    return TrainingConfig.__dataclass_fields__[key].default

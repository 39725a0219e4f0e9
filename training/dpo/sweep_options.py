"""What the command line of a sweep means: which config keys, which values, which trials.

    sweep RUN_DIR --beta 0.05,0.1,0.3 --learning-rate 1e-4,5e-4 --lora.r 8,16

Any key of config.json can be given, with values set apart by commas; a comma within
brackets belongs to its value, as in --loss 'sigmoid,{"sigmoid":1,"sft":0.2}'. Every
combination is a trial. Leaves out running them; see `sweep.py`.
"""

import argparse
import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from training.dpo.config import LoraConfig, TrainingConfig, parse_config
from training.dpo.elsewhere import SAID_ELSEWHERE
from training.dpo.errors import TrainerError

SAME_IN_ALL = {
    "base_model": "sweep one base model at a time",
    "max_length": "it decides which held-out rows are measured",
    "resume_from": "each trial goes on from its own folder",
    "reference_cache": "the trials share one",
}
"""Keys that a sweep cannot vary, and why."""

MOST_TRIALS = 200

Values = dict[str, Any]
"""What a trial changes in config.json: {key: value}, "lora.r" for a key of lora."""


@dataclass(frozen=True)
class SweepOptions:
    """A parsed command line."""

    run_dir: Path
    swept: dict[str, list[Any]]
    jobs: int
    hold_out: float | None


def sweepable_keys() -> list[str]:
    """Every key, those of `lora` with "lora." before them."""
    keys = [f.name for f in fields(TrainingConfig) if f.name not in SAME_IN_ALL]
    keys.remove("lora")
    lora = [f"lora.{f.name}" for f in fields(LoraConfig)]
    return sorted([*keys, *lora])


def parse_options(arguments: Sequence[str]) -> SweepOptions:
    """Read the command line. Raises TrainerError naming the option at fault."""
    parser = argparse.ArgumentParser(
        prog="python -m training.dpo sweep",
        description="Train with every combination of the values given, and rank the"
        " results on held_out.jsonl. Any key of config.json may be given as"
        " --key a,b,c; the trials are ordinary run folders in RUN_DIR/sweep.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", type=Path, help="config.json, pairs.jsonl and so on")
    parser.add_argument("--jobs", default="1", help="trials at once (1)")
    parser.add_argument(
        "--hold-out",
        metavar="SHARE",
        help="without a held_out.jsonl: measure on this share of the prompts instead"
        " of training on them",
    )
    keys = sweepable_keys()
    for key in keys:
        parser.add_argument(_option(key), dest=key, help=argparse.SUPPRESS)
    given, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise _unknown_option(unknown[0], keys)
    found = {key: getattr(given, key) for key in keys}
    swept = {key: _values(key, text) for key, text in found.items() if text is not None}
    if not swept:
        raise TrainerError(
            "A sweep needs at least one option with values to try, such as"
            " --beta 0.05,0.1,0.3."
        )
    return SweepOptions(
        given.run_dir,
        swept,
        int(_number("--jobs", given.jobs, lambda n: n >= 1 and n == int(n), "from 1")),
        given.hold_out
        and _number("--hold-out", given.hold_out, lambda n: 0 < n < 1, "in 0 to 1"),
    )


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _unknown_option(given: str, keys: Sequence[str]) -> TrainerError:
    name = given.split("=")[0]
    if not name.startswith("--"):
        return TrainerError(f'A sweep takes one RUN_DIR; "{given}" is one too many.')
    key = name.removeprefix("--").replace("-", "_")
    if key in SAME_IN_ALL:
        return TrainerError(
            f"{name} cannot be swept: {SAME_IN_ALL[key]}; set it in config.json."
        )
    if key in SAID_ELSEWHERE:
        return TrainerError(f"Unknown option {name}; its key is {SAID_ELSEWHERE[key]}.")
    known = [*map(_option, keys), "--jobs", "--hold-out"]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return TrainerError(f"Unknown option {name}; the nearest known one is {near[0]}.")


def _number(option: str, text: str, fits: Any, wanted: str) -> float:
    try:
        number = float(text)
        if fits(number):
            return number
    except (ValueError, OverflowError):
        pass
    raise TrainerError(f'{option} must be a number {wanted}, not "{text}".')


def _values(key: str, text: str) -> list[Any]:
    values = []
    for part in _parts(text):
        if not part.strip():
            raise TrainerError(
                f'{_option(key)} "{text}" has an empty value; write --key a,b,c'
                " without spaces."
            )
        try:
            value = json.loads(part)
        except ValueError:
            value = part.strip()
        if value not in values:
            values.append(value)
    return values


def _parts(text: str) -> list[str]:
    """What stands between commas, but for those within [] or {}."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def trials_of(
    config: Mapping[str, Any], swept: Mapping[str, Sequence[Any]]
) -> dict[str, Values]:
    """{name of the trial: what it changes}, every combination, each checked.

    Raises TrainerError naming the option, or the trial where values do not go together.
    """
    parse_config(dict(config))
    for key, values in swept.items():
        for value in values:
            _check(config, {key: value}, f"{_option(key)} {_shown(value)}")
    keys = sorted(swept)
    combinations = list(itertools.product(*(swept[key] for key in keys)))
    if len(combinations) > MOST_TRIALS:
        raise TrainerError(
            f"That makes {len(combinations)} trials; at most {MOST_TRIALS} at once."
        )
    trials = {}
    for combination in combinations:
        changed = dict(zip(keys, combination, strict=True))
        name = ",".join(f"{key}={_in_a_path(value)}" for key, value in changed.items())
        _check(config, changed, name)
        trials[name] = changed
    return trials


def trial_config(config: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """config.json with a trial's values in it."""
    merged = dict(config)
    for key, value in values.items():
        group, _, inner = key.rpartition(".")
        if group:
            merged[group] = {**(merged.get(group) or {}), inner: value}
        else:
            merged[key] = value
    return merged


def _check(config: Mapping[str, Any], values: Values, what: str) -> None:
    try:
        parse_config(trial_config(config, values))
    except TrainerError as error:
        told = str(error).removeprefix("config.json: ")
        if len(values) == 1 and _needs_company(config, values):
            return  # its combination with the others decides
        raise TrainerError(f"{what}: {told}") from None


def _needs_company(config: Mapping[str, Any], values: Values) -> bool:
    """Whether a value is fine by itself and clashes with config.json's others only."""
    try:
        parse_config(trial_config({"base_model": config["base_model"]}, values))
    except TrainerError:
        return False
    return True


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _in_a_path(value: Any) -> str:
    text = _shown(value)
    plain = re.sub(r"[^\w.+-]+", "_", text)
    if plain == text and len(text) <= 60:
        return text
    return f"{plain[-40:]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

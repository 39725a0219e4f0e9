"""Whether a server really serves the weights that were trained.

The trainer leaves canary.json: token ids, and their log-probs under the new policy and
under its base. vLLM loads adapters of another base or shape without a word and may
ignore one silently, so its log-probs are compared before a policy serves. What the
file must hold is documented where it is written (training/dpo/canary.py).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from django.utils.translation import gettext as _

from inference.errors import AdapterRefused, InferenceError
from inference.faults import told
from inference.vllm import VLLMClient

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}
"""Mean absolute log-prob difference per token that rounding may explain."""


@dataclass(frozen=True)
class CanaryPrompt:
    """`logprobs[i]` is that of `token_ids[i + 1]`, so there is one fewer."""

    token_ids: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


@dataclass(frozen=True)
class Canary:
    dtype: str
    tolerance: float
    prompts: list[CanaryPrompt]


def read_canary(path: Path) -> Canary:
    """Raises AdapterRefused for a missing or malformed file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        canary = Canary(
            str(raw["dtype"]),
            _finite(raw["tolerance"]),
            [_prompt(entry) for entry in raw["prompts"]],
        )
        if not canary.prompts:
            raise ValueError("no prompts")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterRefused(
            _(
                "Its canary.json is missing or wrong (%(error)s), so it cannot be checked."
            )
            % {"error": told(error)}
        ) from error
    return canary


def check_canary(
    client: VLLMClient, policy: str, base: str, canary: Canary, server_dtype: str
) -> None:
    """Raises AdapterRefused unless the server's `policy` is the one that was trained.

    Three comparisons of mean absolute log-prob differences per token: the server's base
    with the trainer's base (another base?), the policy with the trainer's policy, and
    the policy with the server's own base (is the adapter in effect at all?). Raises
    InferenceError if the server does not answer.
    """
    tolerance = max(canary.tolerance, TOLERANCES.get(server_dtype, 0.0))
    moved, expected = [], []
    for prompt in canary.prompts:
        base_here = client.prompt_logprobs(base, prompt.token_ids)
        if (off := _distance(base_here, prompt.base_logprobs)) > tolerance:
            raise AdapterRefused(
                _(
                    "The server's base model answers unlike the one it was trained on "
                    "(%(off).2g nats per token apart, allowed %(tolerance).2g)."
                )
                % {"off": off, "tolerance": tolerance}
            )
        here = _asked(client, policy, prompt.token_ids)
        if (off := _distance(here, prompt.logprobs)) > tolerance:
            raise AdapterRefused(
                _(
                    "The server answers unlike the trained policy "
                    "(%(off).2g nats per token apart, allowed %(tolerance).2g)."
                )
                % {"off": off, "tolerance": tolerance}
            )
        moved.append(_distance(here, base_here))
        expected.append(_distance(prompt.logprobs, prompt.base_logprobs))
    # Where training moved less than rounding, the first two tests cannot see whether
    # the adapter is in effect; the server's own base can.
    if fmean(moved) == 0 or fmean(moved) < fmean(expected) / 2:
        raise AdapterRefused(
            _("It answers exactly like the base: its adapter has no effect.")
        )


def _asked(client: VLLMClient, policy: str, token_ids: list[int]) -> list[float]:
    """The policy's log-probs, just after the base gave its own for the same tokens: what
    is refused for good now is the policy's fault, not the server's. Damaged weights come
    to log-probs that are no numbers, which vLLM can't write."""
    try:
        return client.prompt_logprobs(policy, token_ids)
    except InferenceError as error:
        if not error.permanent:
            raise
        raise AdapterRefused(
            _(
                "The server can't answer with it (%(error)s); most often its weights are damaged."
            )
            % {"error": error}
        ) from error


def _distance(one: list[float], other: list[float]) -> float:
    return fmean(abs(a - b) for a, b in zip(one, other, strict=True))


def _prompt(entry: dict[str, Any]) -> CanaryPrompt:
    ids = [int(token) for token in entry["token_ids"]]
    logprobs = [_finite(value) for value in entry["logprobs"]]
    base_logprobs = [_finite(value) for value in entry["base_logprobs"]]
    if len(ids) < 2 or not len(ids) - 1 == len(logprobs) == len(base_logprobs):
        raise ValueError("log-probs and token ids do not match")
    return CanaryPrompt(ids, logprobs, base_logprobs)


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{number} is not finite")
    return number

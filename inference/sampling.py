"""How answers are sampled: names, ranges and the request they become.

Knows nothing of seeds (services.py draws them) nor of what a project may set.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class SamplingParams:
    """Raises ValueError naming the field that is out of its range."""

    temperature: float = 1.0
    """0 (always the likeliest token) to 2; a pair needs more than 0."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability, (0, 1]."""
    top_k: int = 0
    """Only this many likeliest tokens; 0 for all."""
    min_p: float = 0.0
    """Only tokens at least this probable relative to the likeliest, [0, 1]."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that occurred less probable, (0, 2]."""
    max_tokens: int = 256
    """An answer is cut off after this many tokens."""

    def __post_init__(self) -> None:
        ranges = {
            "temperature": ("from 0 to 2", 0 <= _number(self, "temperature") <= 2),
            "top_p": ("above 0 and at most 1", 0 < _number(self, "top_p") <= 1),
            "top_k": ("from 0 to 1000000", 0 <= _whole(self, "top_k") <= 1_000_000),
            "min_p": ("from 0 to 1", 0 <= _number(self, "min_p") <= 1),
            "repetition_penalty": (
                "above 0 and at most 2",
                0 < _number(self, "repetition_penalty") <= 2,
            ),
            "max_tokens": (
                "from 1 to 1000000",
                1 <= _whole(self, "max_tokens") <= 1_000_000,
            ),
        }
        for name, (asked, holds) in ranges.items():
            if not holds:
                raise ValueError(f"{name} must be {asked}, not {getattr(self, name)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SamplingParams":
        """From a project's settings; `system_prompt` is no parameter and left aside.

        Raises ValueError naming the field that is unknown or wrong.
        """
        given = {k: v for k, v in values.items() if k != "system_prompt"}
        known = {field.name for field in fields(cls)}
        for name in given:
            if name not in known:
                raise ValueError(f"{name} is not a sampling parameter")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """As vLLM takes it and as it is stored beside an answer."""
        return asdict(self)


def _number(params: SamplingParams, name: str) -> float:
    value = getattr(params, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {value!r}")
    # A whole number is finite, and may be too large to be asked.
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite")
    return value


def _whole(params: SamplingParams, name: str) -> int:
    value = getattr(params, name)
    if isinstance(value, float) and value.is_integer():
        object.__setattr__(params, name, value := int(value))
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    return value

"""What a rule is given, what it answers, and text helpers that several rules share.

Pure: no Django, no files, no network.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Result = Literal["pass", "reject", "could_not_check"]
Params = Mapping[str, Any]


@dataclass(frozen=True)
class PairFacts:
    """What the rules may know of a pair."""

    chosen: str
    rejected: str
    prompt: str = ""
    """What the user said last."""
    kind: str = "judged"
    """"judged", "edited" or "imported"."""
    chosen_finish: str = ""
    """vLLM's finish reason ("stop", "length"); empty where nothing was sampled."""
    rejected_finish: str = ""
    prompt_tokens: int | None = None
    """Of the rendered chat; None where nobody could count."""
    chosen_tokens: int | None = None
    rejected_tokens: int | None = None
    round_max_length: int | None = None
    """Tokens at which the project's rounds cut a text; None where none is set."""
    near_prompt: float | None = None
    """Likeness of the most similar other prompt whose pair came first, 0 where there is
    none; None where nobody looked."""
    near_left_out: int = 0
    """Bands (rules/likeness.py) that this prompt shares at most with one that was not
    compared, since too many share some."""
    agreeing: int | None = None
    """Standing pairs of this prompt that prefer the same text to the same text, this one
    included; None where nobody looked."""
    opposing: int | None = None
    """Those that prefer it the other way round."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """What rules measured of this very pair before: taken, not measured again."""


@dataclass(frozen=True)
class RuleResult:
    result: Result
    reason: str = ""
    """English, at most 300 characters; annotation/retelling.py knows each sentence."""
    measured: float | None = None
    """The number that a parameter is held against, where the rule has one."""


PASS = RuleResult("pass")

Rule = Callable[[PairFacts, Params], RuleResult]

# Chinese, Japanese and Korean letters: written without spaces or with few.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
# However far a list or a quotation moves it in. A backtick later in the line makes it
# code within a sentence.
_FENCED = re.compile(
    r"^[ \t>]*(```+|~~~+)[^`\n]*$.*?(?:^[ \t>]*\1[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)


def without_code(text: str) -> str:
    """The text without its fenced code blocks; an open fence runs to the end."""
    return _FENCED.sub("\n", text) if "```" in text or "~~~" in text else text


def answers(facts: PairFacts) -> tuple[tuple[str, str], tuple[str, str]]:
    """("chosen", its text), ("rejected", its text)."""
    return ("chosen", facts.chosen), ("rejected", facts.rejected)


def quoted(found: str, longest: int = 80) -> str:
    """What was found, for a reason: one line, not too long."""
    words = " ".join(found.split())
    return words if len(words) <= longest else words[: longest - 1] + "…"

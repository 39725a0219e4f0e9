"""The rules that keep a pair from training, as pure functions of its facts.

`check(facts, settings)` runs those that are on. A rule answers pass, reject or
could-not-check with a reason a reviewer reads; one that raises counts as could-not-
check, so a fault in a rule is seen and never rejects silently. Django is not known
here, nor where the facts come from; reasons are English and stored as they are.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rapidfuzz.distance import Indel

Result = Literal["pass", "reject", "could_not_check"]
Params = Mapping[str, Any]

# Beyond this, the similarity of two texts takes seconds: O(n·m/64) bit operations.
MAX_SIMILARITY_CHARS = 50_000


@dataclass(frozen=True)
class PairFacts:
    """What the rules may know of a pair."""

    chosen: str
    rejected: str
    kind: str = "judged"
    """"judged", "edited" or "imported"."""
    chosen_finish: str = ""
    """vLLM's finish reason ("stop", "length"); empty where nothing was sampled."""
    rejected_finish: str = ""
    prompt_tokens: int | None = None
    """Of the rendered chat; None where nobody could count."""
    chosen_tokens: int | None = None
    rejected_tokens: int | None = None


@dataclass(frozen=True)
class RuleResult:
    result: Result
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """One rule's result, with the parameters it was asked with."""

    rule: str
    result: Result
    reason: str
    params: dict[str, Any]


PASS = RuleResult("pass")


def columns(text: str) -> int:
    """Width in terminal columns: wide and full-width characters count two.

    Combining marks, control and format characters (zero-width joiner, bidi marks)
    count nothing; whitespace at both ends is left out.
    """
    width = 0
    for char in text.strip():
        if unicodedata.category(char) in ("Mn", "Me", "Cc", "Cf"):
            continue
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return width


def similarity(one: str, other: str) -> float:
    """1 − insertions and deletions / both lengths, in [0, 1] (rapidfuzz's ratio)."""
    return float(Indel.normalized_similarity(one, other))


def not_identical(facts: PairFacts, params: Params) -> RuleResult:
    """Two answers that differ only in whitespace teach nothing."""
    if facts.chosen.split() == facts.rejected.split():
        return RuleResult("reject", "both answers are the same")
    return PASS


def not_empty(facts: PairFacts, params: Params) -> RuleResult:
    for name, text in (("chosen", facts.chosen), ("rejected", facts.rejected)):
        if columns(text) == 0:
            return RuleResult("reject", f"the {name} answer is empty")
    return PASS


def not_cut_off(facts: PairFacts, params: Params) -> RuleResult:
    """An answer that ran into max_tokens ends in mid-sentence."""
    for name, finish in (
        ("chosen", facts.chosen_finish),
        ("rejected", facts.rejected_finish),
    ):
        if finish == "length":
            return RuleResult("reject", f"the {name} answer was cut off at max_tokens")
    return PASS


def chosen_wide_enough(facts: PairFacts, params: Params) -> RuleResult:
    return _wide_enough("chosen", facts.chosen, params["min_columns"])


def rejected_wide_enough(facts: PairFacts, params: Params) -> RuleResult:
    return _wide_enough("rejected", facts.rejected, params["min_columns"])


def _wide_enough(name: str, text: str, least: int) -> RuleResult:
    width = columns(text)
    if width < least:
        return RuleResult(
            "reject", f"the {name} answer is {width} columns wide, less than {least}"
        )
    return PASS


def not_too_similar(facts: PairFacts, params: Params) -> RuleResult:
    """Edited answers are exempt: they are near copies by design."""
    if facts.kind == "edited":
        return PASS
    longest = max(len(facts.chosen), len(facts.rejected))
    if longest > MAX_SIMILARITY_CHARS:
        return RuleResult(
            "could_not_check",
            f"an answer of {longest} characters is too long to compare",
        )
    found = similarity(facts.chosen, facts.rejected)
    if found > params["max_ratio"]:
        return RuleResult(
            "reject", f"similarity {found:.3f} is above {params['max_ratio']:g}"
        )
    return PASS


def fits_max_length(facts: PairFacts, params: Params) -> RuleResult:
    """Prompt and the longer answer together, in tokens."""
    if (
        facts.prompt_tokens is None
        or facts.chosen_tokens is None
        or facts.rejected_tokens is None
    ):
        return RuleResult("could_not_check", "the tokens could not be counted")
    tokens = facts.prompt_tokens + max(facts.chosen_tokens, facts.rejected_tokens)
    if tokens > params["max_tokens"]:
        return RuleResult(
            "reject",
            f"{tokens} tokens with the prompt, more than {params['max_tokens']}",
        )
    return PASS


Rule = Callable[[PairFacts, Params], RuleResult]

RULES: dict[str, Rule] = {
    "identical": not_identical,
    "empty": not_empty,
    "cut_off": not_cut_off,
    "chosen_width": chosen_wide_enough,
    "rejected_width": rejected_wide_enough,
    "similarity": not_too_similar,
    "max_length": fits_max_length,
}
"""In the order of the funnel: a pair counts as lost to the first that rejects it."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "identical": {"on": True},
    "empty": {"on": True},
    "cut_off": {"on": True},
    "chosen_width": {"on": True, "min_columns": 50},
    "rejected_width": {"on": True, "min_columns": 20},
    "similarity": {"on": True, "max_ratio": 0.9},
    "max_length": {"on": True, "max_tokens": 1024},
}

RANGES: dict[str, tuple[type, float, float]] = {
    "min_columns": (int, 0, 100_000),
    "max_ratio": (float, 0.0, 1.0),
    "max_tokens": (int, 1, 1_000_000),
}
"""Type, least and greatest value of each parameter."""


def run_rule(name: str, facts: PairFacts, params: Params) -> RuleResult:
    """One rule's answer; whatever it raises becomes could-not-check."""
    try:
        return RULES[name](facts, params)
    except Exception as fault:
        return RuleResult(
            "could_not_check", f"the rule failed: {type(fault).__name__}: {fault}"[:300]
        )


def check(facts: PairFacts, rules: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """Every rule that is on, in order. `rules` is {name: {"on": bool, …params}}.

    A name that is not in RULES (a rule of a later version, say) could not be checked.
    """
    verdicts = []
    for name in [*RULES, *(name for name in rules if name not in RULES)]:
        params = {**DEFAULTS.get(name, {}), **rules.get(name, {})}
        if not params.pop("on", True):
            continue
        found = run_rule(name, facts, params)
        verdicts.append(Verdict(name, found.result, found.reason, params))
    return verdicts


def state_of(verdicts: list[Verdict], accept_unchecked: bool = True) -> str:
    """ "accepted" or "rejected" for a pair with these verdicts.

    A rejection rejects. What could not be checked doesn't, unless the project says
    so: an outage of a checker must not throw honest judgments away; the mark stays
    with the pair and shows in the funnel.
    """
    results = {verdict.result for verdict in verdicts}
    if "reject" in results:
        return "rejected"
    if "could_not_check" in results and not accept_unchecked:
        return "rejected"
    return "accepted"

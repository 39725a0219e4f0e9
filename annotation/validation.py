"""The rules that keep a pair from training: their order, parameters, and how they run.

`check(facts, settings)` runs those that are on. A rule answers pass, reject or
could-not-check with a reason a reviewer reads; one that raises counts as could-not-
check, so a fault in a rule is seen and never rejects silently. The rules themselves are
pure functions in annotation/rules/. Django is not known here, nor where the facts come
from; reasons are English and stored as they are.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from annotation.rules import (
    identity,
    language,
    likeness,
    personal,
    refusals,
    repetition,
    shape,
)
from annotation.rules.facts import PairFacts, Params, Result, Rule, RuleResult

__all__ = [
    "CHOICES",
    "DEFAULTS",
    "LISTS",
    "RANGES",
    "RULES",
    "PairFacts",
    "RuleResult",
    "Verdict",
    "blocking",
    "check",
    "in_order",
    "run_rule",
    "state_of",
    "still_let_through",
    "version",
]

CODE_VERSION = 4
"""Raised with every change of what a rule says of the same facts; after the upgrade
unfrozen pairs are checked again (checking.py)."""


@dataclass(frozen=True)
class Verdict:
    """One rule's result, with the parameters it was asked with."""

    rule: str
    result: Result
    reason: str
    params: dict[str, Any]
    measured: float | None = None
    """The number that a parameter was held against, where the rule has one."""


RULES: dict[str, Rule] = {
    "identical": shape.not_identical,
    "empty": shape.not_empty,
    "cut_off": shape.not_cut_off,
    "chosen_width": shape.chosen_wide_enough,
    "rejected_width": shape.rejected_wide_enough,
    "similarity": shape.not_too_similar,
    "max_length": shape.fits_max_length,
    "identity": identity.keeps_its_name,
    "repetition": repetition.not_repetitive,
    "personal_data": personal.no_personal_data,
    "contradiction": likeness.not_contradicted,
    "language": language.same_script,
    "refusal": refusals.no_refusal_on_one_side,
    "near_duplicate": likeness.prompt_is_new,
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
    # On, since what they find is no honest work lost: a name that unblinded the
    # judgment, a policy that got stuck, numbers proved by a checksum, and pairs that
    # cancel each other.
    "identity": {"on": True, "words": []},
    "repetition": {"on": True, "max_repeated": 0.5, "max_run": 20},
    "personal_data": {
        "on": True,
        **{"cards": True, "cn_ids": True, "ibans": True},
        # Found by looks alone: a hotline is no secret.
        **{"emails": False, "phones": False},
    },
    "contradiction": {"on": True},
    # Off: which of these is wrong, only the project knows.
    "language": {"on": False, "min_share": 0.2},
    "refusal": {"on": False, "side": "chosen"},
    "near_duplicate": {"on": False, "min_likeness": 0.9},
}

RANGES: dict[str, tuple[type, float, float]] = {
    "min_columns": (int, 0, 100_000),
    "max_ratio": (float, 0.0, 1.0),
    "max_tokens": (int, 1, 1_000_000),
    "max_repeated": (float, 0.0, 1.0),
    "max_run": (int, 2, 10_000),
    "min_share": (float, 0.0, 1.0),
    "min_likeness": (float, likeness.LEAST_LIKENESS, 1.0),
}
"""Type, least and greatest value of each parameter that is a number."""

CHOICES: dict[str, tuple[str, ...]] = {"side": ("chosen", "rejected", "either")}
LISTS: dict[str, tuple[int, int]] = {
    "words": (identity.MAX_WORDS, identity.LONGEST_WORD)
}
"""Most texts and the longest one, of each parameter that is a list of texts."""


def run_rule(name: str, facts: PairFacts, params: Params) -> RuleResult:
    """One rule's answer; whatever it raises becomes could-not-check."""
    try:
        return RULES[name](facts, params)
    except Exception as fault:
        return RuleResult(
            "could_not_check", f"{BROKE}: {type(fault).__name__}: {fault}"[:300]
        )


BROKE = "the rule failed"
"""How the reason of a rule that raised begins."""


def in_order(names: Iterable[str]) -> list[str]:
    """These rules in the order of RULES; those that are not there (of a later version,
    say) come last."""
    wanted = dict.fromkeys(names)
    return [name for name in {**RULES, **wanted} if name in wanted]


def asked(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rules that are on, in order, each with all its parameters (without "on").

    `rules` is {name: {"on": bool, …params}}; what is absent has its default.
    """
    found = {}
    for name in in_order([*RULES, *rules]):
        params = {**DEFAULTS.get(name, {}), **rules.get(name, {})}
        if params.pop("on", True):
            found[name] = params
    return found


def check(facts: PairFacts, rules: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """Every rule that is on, in order; one that nobody knows could not be checked."""
    verdicts = []
    for name, params in asked(rules).items():
        found = run_rule(name, facts, params)
        verdicts.append(
            Verdict(name, found.result, found.reason, params, found.measured)
        )
    return verdicts


def version(
    rules: Mapping[str, Mapping[str, Any]], accept_unchecked: bool = True
) -> str:
    """sha256 of what decides over pairs: names, parameters, and the code's version."""
    told = {
        "code": CODE_VERSION,
        "rules": asked(rules),
        "accept_unchecked": accept_unchecked,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class _Said(Protocol):
    """A verdict, made now or stored."""

    @property
    def rule(self) -> str: ...
    @property
    def result(self) -> str: ...
    @property
    def reason(self) -> str: ...


SomeVerdict = TypeVar("SomeVerdict", bound=_Said)

_PARTICULARS = re.compile(r":.*|“[^”]*”|\d[\d.,]*%?", re.DOTALL)


def still_let_through(
    verdicts: Iterable[SomeVerdict],
    rules: Collection[str],
    seen: Mapping[str, Collection[str]],
) -> list[str]:
    """Those of `rules` that say what a reviewer has seen, {rule: [result, reason]}.

    Numbers and quoted words of a reason aside: a width is as little news as a new floor,
    a card number beside an e-mail address is. A rule absent from `seen` (let through before
    that was kept) counts by its name.
    """
    return [
        verdict.rule
        for verdict in verdicts
        if verdict.rule in rules
        and (
            verdict.rule not in seen
            or _kind(verdict.result, verdict.reason) == _kind(*seen[verdict.rule])
        )
    ]


def _kind(result: str, reason: str) -> tuple[str, str]:
    return result, _PARTICULARS.sub("", reason)


def blocking(
    verdicts: Iterable[SomeVerdict],
    accept_unchecked: bool = True,
    let_through: Collection[str] = (),
) -> list[SomeVerdict]:
    """The verdicts that keep the pair from training.

    A rejection does. What could not be checked doesn't, unless the project says so: an
    outage of a checker must not throw honest judgments away; the mark stays with the
    pair and shows in the funnel. Of the rules in `let_through` a reviewer has said that
    they are wrong here.
    """
    blocks = {"reject"} if accept_unchecked else {"reject", "could_not_check"}
    return [
        verdict
        for verdict in verdicts
        if verdict.result in blocks and verdict.rule not in let_through
    ]


def state_of(
    verdicts: Iterable[SomeVerdict],
    accept_unchecked: bool = True,
    let_through: Collection[str] = (),
) -> str:
    """ "accepted" or "rejected" for a pair with these verdicts."""
    return (
        "rejected" if blocking(verdicts, accept_unchecked, let_through) else "accepted"
    )

"""Chosen answers that say the same again and again: a policy that got stuck.

The rejected answer may: that a loop lost is what a pair should teach.
"""

import re

from annotation.rules.facts import (
    WORD,
    PairFacts,
    Params,
    RuleResult,
    quoted,
    without_code,
)

N = 4
LEAST_GRAMS = 40
"""Fewer say nothing: a short answer that repeats its question is no loop."""
LONGEST_PERIOD = 12

# One sign or a few that follow themselves, whatever they are: "!!!!", "haha", "😂😂".
_SIGNS = re.compile(r"(?=\S)(.{1,8}?)\1{19,}", re.DOTALL)
LEAST_SIGNS = 200
"""Characters of such a run; shorter ones are lines that were drawn."""
# Their words repeat by their nature: a column of "yes", a matrix of zeros.
_TABULAR = re.compile(
    r"^[ \t>]*\|[^\n]*\|[ \t]*$|\$\$[^$]*\$\$|\\\[(?:(?!\\[\[\]]).)*\\\]",
    re.MULTILINE | re.DOTALL,
)


def repeated_share(words: list[str]) -> float:
    """1 − different runs of four words / all of them; 0 for fewer than LEAST_GRAMS."""
    count = len(words) - N + 1
    if count < LEAST_GRAMS:
        return 0.0
    return 1 - len(set(zip(*(words[i:] for i in range(N)), strict=False))) / count


def longest_run(words: list[str]) -> tuple[int, list[str]]:
    """How often a phrase of at most LONGEST_PERIOD words follows itself at most, and it."""
    most: tuple[int, list[str]] = (1 if words else 0, words[:1])
    for period in range(1, min(LONGEST_PERIOD, len(words)) + 1):
        same = 0
        for at in range(period, len(words)):
            same = same + 1 if words[at] == words[at - period] else 0
            if same // period + 1 > most[0]:
                most = (same // period + 1, words[at - period + 1 : at + 1])
    return most


def longest_signs(text: str) -> tuple[int, str]:
    """How often the unit of the longest run of LEAST_SIGNS or more follows itself, and it;
    (0, "") where there is none."""
    runs = [found for found in _SIGNS.finditer(text) if len(found[0]) >= LEAST_SIGNS]
    if not runs:
        return 0, ""
    longest = max(runs, key=lambda found: len(found[0]))
    return len(longest[0]) // len(longest[1]), longest[1]


def not_repetitive(facts: PairFacts, params: Params) -> RuleResult:
    """`max_repeated`: share of its runs of four words that came before; `max_run`: times
    that a phrase may follow itself. Code is left out; tables and formulas are, but for
    runs of the same signs."""
    plain = without_code(facts.chosen)
    words = WORD.findall(_TABULAR.sub("\n", plain).casefold())
    share = repeated_share(words)
    if share > params["max_repeated"]:
        most = params["max_repeated"]
        reason = f"{share:.2f} of the chosen answer repeats itself, more than {most:g}"
        return RuleResult("reject", reason, share)
    times, phrase = longest_run(words)
    told = " ".join(phrase)
    if times <= params["max_run"]:
        times, told = longest_signs(plain)
    if times > params["max_run"]:
        told = quoted(told, 40)
        return RuleResult(
            "reject",
            f"the chosen answer says “{told}” {times} times in a row, more than"
            f" {params['max_run']}",
            share,
        )
    return RuleResult("pass", measured=share)

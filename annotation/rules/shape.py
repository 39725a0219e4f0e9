"""Rules about a pair's outer shape: length, sameness, cut-offs."""

import unicodedata

from rapidfuzz.distance import Indel

from annotation.rules.facts import PASS, PairFacts, Params, RuleResult, answers

# Beyond this, the similarity of two texts takes seconds: O(n·m/64) bit operations.
MAX_SIMILARITY_CHARS = 50_000


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
    for name, text in answers(facts):
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
    return _wide_enough("chosen", facts.chosen, facts, params["min_columns"])


def rejected_wide_enough(facts: PairFacts, params: Params) -> RuleResult:
    return _wide_enough("rejected", facts.rejected, facts, params["min_columns"])


def _wide_enough(name: str, text: str, facts: PairFacts, least: int) -> RuleResult:
    known = facts.measured.get(f"{name}_width")
    width = columns(text) if known is None else int(known)
    if width < least:
        reason = f"the {name} answer is {width} columns wide, less than {least}"
        return RuleResult("reject", reason, width)
    return RuleResult("pass", measured=width)


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
    found = facts.measured.get("similarity")
    if found is None:
        found = similarity(facts.chosen, facts.rejected)
    if found > params["max_ratio"]:
        reason = f"similarity {found:.3f} is above {params['max_ratio']:g}"
        return RuleResult("reject", reason, found)
    return RuleResult("pass", measured=found)


def fits_max_length(facts: PairFacts, params: Params) -> RuleResult:
    """Prompt and the longer answer together, in tokens, against the rule's own limit and
    the length at which the project's rounds would cut it."""
    known = facts.measured.get("max_length")
    tokens = _tokens(facts) if known is None else int(known)
    if tokens is None:
        return RuleResult("could_not_check", "the tokens could not be counted")
    if tokens > params["max_tokens"]:
        reason = f"{tokens} tokens with the prompt, more than {params['max_tokens']}"
        return RuleResult("reject", reason, tokens)
    if facts.round_max_length is not None and tokens > facts.round_max_length:
        reason = (
            f"{tokens} tokens with the prompt; rounds cut at {facts.round_max_length}"
        )
        return RuleResult("reject", reason, tokens)
    return RuleResult("pass", measured=tokens)


def _tokens(facts: PairFacts) -> int | None:
    counts = (facts.prompt_tokens, facts.chosen_tokens, facts.rejected_tokens)
    prompt, chosen, rejected = counts
    if prompt is None or chosen is None or rejected is None:
        return None
    return prompt + max(chosen, rejected)

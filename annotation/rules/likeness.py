"""Prompts that are nearly the same, and pairs that contradict each other.

Likeness is the share of runs of five characters that two texts have in common (Jaccard):
letters, digits and symbols ("C" is not "C++"), punctuation aside. `bands` are ten numbers
of a text's letters and digits; two texts whose letters are at least
0.8 alike share one with a chance of 98 % (at 0.9: 99.99 %; at 0.3: 2 %), so an index
finds what to compare (MinHash; Broder 1997, Leskovec et al., Mining of Massive Datasets
§3.4). Looking them up is for annotation/neighbours.py.
"""

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from math import comb

import numpy as np

from annotation.rules.facts import CJK, PASS, WORD, PairFacts, Params, RuleResult

RUN = 5
BANDS, ROWS = 10, 5
LEAST_LIKENESS = 0.8
"""Below it the bands miss too much to be believed."""
MISSED = 0.02
"""The chance at which a near duplicate of the least likeness may be missed: that of ten
bands at LEAST_LIKENESS."""
MAX_CHARS = 20_000
"""What follows in a prompt is not looked at."""

_MERSENNE = (1 << 31) - 1
_chance = np.random.default_rng(20261121)
_FACTORS = _chance.integers(1, _MERSENNE, (BANDS * ROWS, 1), dtype=np.uint64)
_SHIFTS = _chance.integers(0, _MERSENNE, (BANDS * ROWS, 1), dtype=np.uint64)


@lru_cache(maxsize=1)
def _pieces() -> re.Pattern[str]:
    """Words with the marks that belong to their letters (vowels of Hindi), and symbols
    one by one: mathematical ones, emoji, what programs are written with."""
    marks, symbols = (
        "".join(_ranges(code for code in _LETTERS if _kind(code) == kind))
        for kind in "MS"
    )
    symbols = rf"#*/%&@\^~{symbols}+<=>|$"
    return re.compile(rf"[{CJK}]|(?:[^\W{CJK}]|[{marks}])+|[{symbols}]|-(?=\s?\d)")


_LETTERS = range(0x80, 0x1FB00)


def _kind(code: int) -> str:
    return unicodedata.category(chr(code))[0]


def _ranges(codes: Iterable[int]) -> Iterator[str]:
    """What stands for these characters between brackets. Thousands of them, one by one,
    are looked through for each character that is none of them."""
    for _key, run in groupby(
        enumerate(codes), lambda numbered: numbered[1] - numbered[0]
    ):
        found = [chr(code) for _n, code in run]
        yield found[0] if len(found) == 1 else f"{found[0]}-{found[-1]}"


def runs(text: str) -> frozenset[str]:
    """The text's runs of five characters; of a shorter one, itself."""
    return _runs(text, _pieces())


def _runs(text: str, pieces: re.Pattern[str]) -> frozenset[str]:
    # Half a surrogate can't be encoded, and no likeness hangs on it.
    plain = unicodedata.normalize("NFKC", text[:MAX_CHARS]).casefold()
    plain = " ".join(pieces.findall(plain.encode("utf-8", "replace").decode("utf-8")))
    if len(plain) <= RUN:
        return frozenset([plain] if plain else [])
    return frozenset(plain[at : at + RUN] for at in range(len(plain) - RUN + 1))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard's index; of two texts without letters 0."""
    together = len(one | other)
    return len(one & other) / together if together else 0.0


def bands(text: str) -> list[int]:
    """BANDS numbers that fit a signed 64-bit column; none of a text without letters."""
    # Stored with each prompt: by letters alone, as ever, which finds more than enough.
    found = _runs(text, WORD)
    if not found:
        return []
    hashes = np.fromiter(
        (zlib.crc32(run.encode()) % _MERSENNE for run in found), np.uint64, len(found)
    )
    least = np.full(BANDS * ROWS, _MERSENNE, np.uint64)
    for at in range(0, len(hashes), 1024):
        mixed = (_FACTORS * hashes[at : at + 1024] + _SHIFTS) % np.uint64(_MERSENNE)
        least = np.minimum(least, mixed.min(axis=1))
    return [
        # 48 bits of hash under the band's number: no band is taken for another.
        (band << 48)
        | (_digest(least[band * ROWS : (band + 1) * ROWS]) & ((1 << 48) - 1))
        for band in range(BANDS)
    ]


def _digest(numbers: np.ndarray) -> int:
    data = numbers.astype("<u8").tobytes()
    return (zlib.crc32(data) << 32) | zlib.crc32(data, 0x5EED)


def prompt_is_new(facts: PairFacts, params: Params) -> RuleResult:
    """Of pairs on prompts that are nearly the same, the one that came first stays."""
    found = facts.measured.get("near_duplicate", facts.near_prompt)
    if found is None:
        return RuleResult("could_not_check", "nobody looked for similar prompts")
    if found >= params["min_likeness"]:
        least = params["min_likeness"]
        reason = f"the prompt is {found:.2f} alike another one, at least {least:g}"
        return RuleResult("reject", reason, found)
    if _chance_of_few(facts.near_left_out, params["min_likeness"]) > MISSED:
        reason = (
            "too many prompts are alike to compare them all;"
            f" of those compared the nearest is {found:.2f} alike"
        )
        return RuleResult("could_not_check", reason, found)
    return RuleResult("pass", measured=found)


def _chance_of_few(count: int, alike: float) -> float:
    """The chance that two prompts so much alike share at most `count` bands."""
    one = alike**ROWS
    return sum(
        comb(BANDS, n) * one**n * (1 - one) ** (BANDS - n) for n in range(count + 1)
    )


def not_contradicted(facts: PairFacts, params: Params) -> RuleResult:
    """Of the same two answers to the same prompt the majority stays; of as many for each,
    neither: they would cancel each other in training anyway."""
    if facts.agreeing is None or facts.opposing is None:
        return RuleResult("could_not_check", "nobody looked for the opposite pair")
    if facts.opposing and facts.opposing >= facts.agreeing:
        reason = (
            f"pairs that say the opposite: {facts.opposing};"
            f" that say the same: {facts.agreeing}"
        )
        return RuleResult("reject", reason)
    return PASS

"""Whether an answer is written in the prompt's script.

Scripts only: an English answer to a Spanish prompt passes. A language-identifying
library would weigh more than it helps on texts as short as prompts are. Where the prompt
asks for another language, mixes scripts, or is in Han that Japanese has too while the answer
is Japanese, the rule says that it could not check.
"""

import re

from annotation.rules.facts import (
    PASS,
    PairFacts,
    Params,
    RuleResult,
    without_code,
)

_SCRIPTS = {
    "Latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "Kana": "\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff",
    "Korean": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7af",
    "Cyrillic": "\u0400-\u052f",
    "Arabic": "\u0620-\u064a\u066e-\u06d3\u0750-\u077f",
    "Hebrew": "\u05d0-\u05ea",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Devanagari": "\u0904-\u0939",
    "Bengali": "\u0985-\u09b9",
    "Tamil": "\u0b85-\u0bb9",
    "Telugu": "\u0c05-\u0c39",
    "Thai": "\u0e01-\u0e33",
    "Georgian": "\u10a0-\u10ff",
    "Armenian": "\u0531-\u0587",
}
_RUNS = {name: re.compile(f"[{letters}]+") for name, letters in _SCRIPTS.items()}
_WEIGHT = {"Chinese": 3, "Kana": 2, "Korean": 2}
"""Letters of an alphabet that say as much as one character."""

LEAST_PROMPT, LEAST_ANSWER = 6, 30
"""Weighted letters below which nothing is said."""
MIXED = 8
"""Weighted letters of another script in a prompt that make it one of both; so does a
third of them."""

_ASKS_FOR_A_LANGUAGE = re.compile(
    r"translat|in your language|traduc|tradui|übersetz|перевед|ترجم|翻译|翻譯|訳し|번역"
    r"|\b(?:english|chinese|mandarin|cantonese|japanese|korean|french|german|spanish"
    r"|portuguese|italian|russian|ukrainian|arabic|hebrew|greek|hindi|thai|vietnamese"
    r"|turkish|polish|dutch|latin|bengali|bangla|tamil|telugu|georgian|armenian|pinyin|romaji|hiragana|kanji|transliterat\w*)\b"
    r"|[英中日韩韓法德俄汉漢粤]\s?(?:语|語|文|字)|西班牙语|阿拉伯语|葡萄牙语|意大利语|拼音|双语"
    r"|英単語|영어|중국어|일본어|английск|китайск|японск|русск|französisch|englisch|anglais|inglés",
    re.IGNORECASE,
)


def same_script(facts: PairFacts, params: Params) -> RuleResult:
    """Rejects where too little of the *chosen* answer is in the prompt's main script.

    A rejected answer in the wrong language is what a pair should push down, so it is
    not looked at.
    """
    prompt, answer = _letters(facts.prompt), _letters(facts.chosen)
    if sum(prompt.values()) < LEAST_PROMPT or sum(answer.values()) < LEAST_ANSWER:
        return PASS
    asked, given = _main(prompt), _main(answer)
    share = answer[asked] / sum(answer.values())
    if share >= params["min_share"] or given == asked:
        return RuleResult("pass", measured=share)
    told = f"the prompt is in {asked}, the chosen answer in {given}"
    if _ASKS_FOR_A_LANGUAGE.search(facts.prompt):
        return RuleResult(
            "could_not_check", f"{told}; the prompt speaks of a language", share
        )
    if prompt[given] >= min(MIXED, sum(prompt.values()) / 3):
        return RuleResult("could_not_check", f"{told}; the prompt has both", share)
    if (asked, given) == ("Chinese", "Japanese") and _may_be_japanese(facts.prompt):
        return RuleResult(
            "could_not_check", f"{told}; its characters are used in both", share
        )
    return RuleResult("reject", told, share)


def _letters(text: str) -> dict[str, int]:
    """Weighted letters of each script, code left out; Kana makes its Han Japanese."""
    plain = without_code(text)
    found = {
        name: _WEIGHT.get(name, 1) * sum(map(len, run.findall(plain)))
        for name, run in _RUNS.items()
    }
    found["Japanese"] = 0
    if found["Kana"] * 10 >= found["Chinese"] + found["Kana"] > 0:
        found["Japanese"] = found.pop("Kana") + found["Chinese"]
        found["Chinese"] = 0
    else:
        found["Chinese"] += found.pop("Kana")
    return found


def _may_be_japanese(text: str) -> bool:
    """Whether Japan's own character set has all its Han: short questions there often have
    no Kana. Simplified Chinese is told by what that set lacks."""
    han = "".join(_RUNS["Chinese"].findall(without_code(text)))
    try:
        return bool(han.encode("shift_jis"))
    except UnicodeEncodeError:
        return False


def _main(letters: dict[str, int]) -> str:
    return max(letters, key=letters.__getitem__)

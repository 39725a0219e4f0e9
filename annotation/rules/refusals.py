"""Pairs in which one answer refuses and the other does not.

A refusal may be right, and then the pair is the best there is: so the rule is off unless
a project wants it, and by default minds only a refusal that was preferred.
"""

import re

from annotation.rules.facts import PASS, PairFacts, Params, RuleResult, quoted

OPENING = 300
"""Characters; a refusal is how an answer begins."""

_CANNOT = r"(?:can(?:no|['’])t|can not|(?:am|['’]m) (?:not able|unable) to|won['’]t|will not|(?:am|['’]m) not (?:allowed|permitted|programmed) to|do(?: not|n['’]t) feel comfortable)"
_DO = r"(?: be able to)?(?: \w{1,12}){0,1} (?:assist|help(?! but| it\b| \w{2,20}ing\b)|provide|answer|comply|fulfil\w*|create|generate|write|do (?:that|this)|discuss|engage|share|give(?! up)|support|offer|continue|participate|produce|talk about|respond)"
_REFUSES = re.compile(
    "|".join(
        [
            rf"\bI(?:['’]m)? ?(?:really |truly |very )?(?:am )?(?:sorry|afraid)[^.!?\n]{{0,60}}?\bI {_CANNOT}",
            rf"\b(?:sorry|apologi[sz]e|apologies|unfortunately|regret)[^.!?\n]{{0,60}}?\bI {_CANNOT}",
            rf"\bI ?{_CANNOT}{_DO}\b",
            rf"\bas an? (?:\w{{1,12}}[ -]){{0,3}}(?:AI|model|assistant)\b[^.!?\n]{{0,80}}?\bI (?:{_CANNOT}|do(?: not|n['’]t) have)",
            r"\bI must (?:decline|refuse)\b|\bI have to (?:decline|refuse)\b",
            r"(?:抱歉|对不起|對不起|很遗憾|很遺憾|不好意思)[^。！？\n]{0,30}?"
            r"(?:无法|無法|不能|不可以|[没沒]有?[办辦]法|不便)",
            r"我(?:无法|無法|不能|[没沒][办辦]法|不便)(?:[为為向给給][您你])?"
            r"(?:提供|回答|[帮幫]|[协協]助|[满滿]足|完成|[参參][与與]|[讨討][论論]|生成|[继繼][续續])",
            r"作[为為](?:一[个個名款])?(?:AI|人工智能|人工智慧|[语語]言模型|大模型)[^。！？\n]{0,40}?"
            r"(?:无法|無法|不能|[没沒]有能力)",
        ]
    ),
    re.IGNORECASE,
)


def refusal(answer: str) -> str:
    """The words with which the answer refuses, near its beginning; else empty."""
    found = _REFUSES.search(answer.lstrip()[:OPENING])
    return found[0] if found else ""


def no_refusal_on_one_side(facts: PairFacts, params: Params) -> RuleResult:
    """`side`: whose refusal rejects, if the other answer does not refuse: "chosen",
    "rejected" or "either"."""
    said = {"chosen": refusal(facts.chosen), "rejected": refusal(facts.rejected)}
    refusing = [name for name, words in said.items() if words]
    if len(refusing) != 1 or params["side"] not in (refusing[0], "either"):
        return PASS
    return RuleResult(
        "reject",
        f"only the {refusing[0]} answer refuses: “{quoted(said[refusing[0]])}”",
    )

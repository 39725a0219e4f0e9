"""Rules and verdicts in words a person reads; the names in code and JSON stay as they are."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation.models import Verdict
from annotation.sways import USUAL

RULES = {
    "identical": gettext_lazy("The two answers are the same"),
    "empty": gettext_lazy("An answer is empty"),
    "cut_off": gettext_lazy("An answer is cut off"),
    "chosen_width": gettext_lazy("The chosen answer is too short"),
    "rejected_width": gettext_lazy("The rejected answer is too short"),
    "similarity": gettext_lazy("The two answers are too similar"),
    "max_length": gettext_lazy("Too long for training"),
    "identity": gettext_lazy("An answer tells whose model it is"),
    "repetition": gettext_lazy("The chosen answer repeats itself"),
    "personal_data": gettext_lazy("An answer holds personal data"),
    "language": gettext_lazy("The chosen answer is in another script"),
    "refusal": gettext_lazy("One answer refuses, the other does not"),
    "contradiction": gettext_lazy("Another pair says the opposite"),
    "near_duplicate": gettext_lazy("The prompt is a near duplicate"),
}
"""Each rule as what it rejects."""


FORMATS = {
    "trl": "TRL",
    "openai": "OpenAI, Azure",
    "together": "Together",
    "llamafactory": "LLaMA-Factory",
    "kto": "KTO",
}
"""Rows of pairs, as their makers write themselves in any language."""
READ_AS = {**FORMATS, "compared": gettext_lazy("two answers and which is better")}
"""What an import's rows can be."""


LOST = {
    "undecided": gettext_lazy("still undecided"),
    "tie": gettext_lazy("equally good"),
    "both_bad": gettext_lazy("both bad"),
    "split": gettext_lazy("annotators disagree"),
    "review": gettext_lazy("wait for a reviewer"),
    "unchecked": gettext_lazy("not checked yet"),
    "could_not_check": gettext_lazy("a rule could not check them"),
    "held_out": gettext_lazy("held out to measure"),
    "not_yet": gettext_lazy("wait for the next round"),
}
"""Why the funnel narrows where no rule is the reason."""


SWAYS = {
    "first": (gettext_lazy("First won"), gettext_lazy("the answer shown first")),
    "longer": (
        gettext_lazy("Longer won"),
        gettext_lazy("the longer one in characters, where lengths differ"),
    ),
    "marked": (
        gettext_lazy("More Markdown won"),
        gettext_lazy("bold passages, headings, listed points, where they differ"),
    ),
    "own": (
        gettext_lazy("Prompt’s script won"),
        gettext_lazy("where only one of the two is written in it"),
    ),
    "strayed": (
        gettext_lazy("Winner in another script"),
        gettext_lazy("than the prompt, of all with letters"),
    ),
}
"""What may win for no good reason, shortly and in words."""


def rule_words(rule: str) -> str:
    return str(RULES.get(rule, rule.replace("_", " ")))


def lost_words(reason: str) -> str:
    return str(LOST[reason]) if reason in LOST else rule_words(reason)


def criterion_words(side: str) -> str:
    """How an answer did by one criterion: A, B or a tie."""
    return {"first": "A", "second": "B"}.get(side) or _("Tie")


def verdict_words(verdict: str) -> str:
    """A verdict in the words of the compare page."""
    return {
        Verdict.FIRST: _("A is better"),
        Verdict.SECOND: _("B is better"),
        Verdict.TIE: _("Tie"),
        Verdict.BOTH_BAD: _("Both are bad"),
    }[Verdict(verdict)]


def outcome_words(outcome: str) -> str:
    """An outcome without a winner, as a reviewer decides it."""
    return {
        "tie": _("Tie"),
        "both_bad": _("Both are bad"),
        "split": _("Left out"),
    }[outcome]


def strength_words(strength: int | None) -> str:
    """How much better, as the compare page asks; empty where it was not asked."""
    words = {1: _("slightly"), 2: _("clearly"), 3: _("much better")}
    return words.get(strength or 0, "")


def flag_words(flag: dict) -> str:
    """A flag of annotation/sways.py as a sentence, with its share and interval."""
    share, sway = flag["share"], flag["sway"]
    is_more = share.low > USUAL[sway][1]
    sentence = {
        ("first", True): _("The answer shown first wins too often"),
        ("first", False): _("The answer shown second wins too often"),
        ("longer", True): _("Longer answers win: the policy will learn length"),
        ("longer", False): _("Shorter answers win: the policy will learn brevity"),
        ("marked", True): _("Answers with more Markdown win: the policy will learn it"),
        ("marked", False): _("Answers with less Markdown win: the policy will drop it"),
        ("own", False): _("Answers in another script than the prompt win"),
        ("strayed", True): _("Many winners are in another script than the prompt"),
    }[sway, is_more]
    value, low, high = share.percents
    told = _("%(sentence)s: %(value)d %% (%(low)d–%(high)d) of %(of)d.") % {
        "sentence": sentence,
        "value": value if is_more or sway == "own" else 100 - value,
        "low": low if is_more or sway == "own" else 100 - high,
        "high": high if is_more or sway == "own" else 100 - low,
        "of": share.of,
    }
    if flag["username"]:
        return _("%(name)s: %(what)s") % {"name": flag["username"], "what": told}
    return told

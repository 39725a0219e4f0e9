"""Which settings a project's page asks for, in which words, with what is usual.

Names are the dotted names of project_settings; ranges are checked there alone. The form
made of them is in settings_form.py.
"""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from annotation.project_settings import DecideBy, NextComparison
from annotation.words import RULES


@dataclass(frozen=True)
class Setting:
    """One field: where its value lives, how it is asked for, what is usual."""

    name: str
    kind: str
    """int, float, flag, text, lines (one item a line) or choice."""
    label: Any
    help: Any = ""
    placeholder: Any = ""
    choices: tuple = ()


_PARAMS: dict[str, tuple[Any, ...]] = {
    "min_columns": (
        "int",
        _("At least this wide"),
        _("In columns; a Chinese character counts two. Usual: 50 chosen, 20 rejected."),
    ),
    "max_ratio": ("float", _("At most this similar"), _("0 to 1. Usual: 0.9.")),
    "max_tokens": (
        "int",
        _("At most this many tokens"),
        _(
            "Prompt and answer together; the rounds’ own limit counts as well."
            " Usual: 512 to 1024 and up."
        ),
    ),
    "words": (
        "lines",
        _("Words of your own that no answer may hold"),
        _("One a line, such as your product’s code name. At most 200."),
    ),
    "max_repeated": (
        "float",
        _("At most this share repeated"),
        _(
            "Of the runs of four words, how many came before. Usual: 0.3 to 0.5; a song"
            " with its refrain has about 0.3."
        ),
    ),
    "max_run": (
        "int",
        _("A phrase in a row at most"),
        _("Times that it may follow itself. Usual: 8 to 20."),
    ),
    "cards": ("flag", _("Card numbers"), _("With a valid check digit.")),
    "cn_ids": ("flag", _("Chinese identity numbers"), _("With a valid check digit.")),
    "ibans": ("flag", _("Bank account numbers (IBAN)"), _("With valid check digits.")),
    "emails": ("flag", _("E-mail addresses"), _("Also those of help desks.")),
    "phones": (
        "flag",
        _("Phone numbers"),
        _("By looks alone: other long numbers may be taken for one."),
    ),
    "min_share": (
        "float",
        _("At least this share in the prompt’s script"),
        _("0 to 1, of the letters; code does not count. Usual: 0.1 to 0.5."),
    ),
    "side": (
        "choice",
        _("Whose refusal"),
        _(
            "A refusal may be right: then the pair is among the best. Look at the"
            " preview first."
        ),
        (
            ("chosen", _("the chosen answer’s")),
            ("rejected", _("the rejected answer’s")),
            ("either", _("either")),
        ),
    ),
    "min_likeness": (
        "float",
        _("From this similarity on"),
        _(
            "0.8 to 1, of the runs of five letters in common. Usual: 0.9. The pair that"
            " came first stays."
        ),
    ),
}
"""Of each parameter: kind, label, what is usual, and choices where it has some."""

_ABOUT = {
    "identity": _(
        "“I am …”, “as an AI trained by …”: it gives away who answers and teaches a name."
        " A text about a model passes."
    ),
    "repetition": _("A policy that got stuck. A rejected answer may repeat itself."),
    "personal_data": _("Known test numbers and example addresses pass."),
    "language": _(
        "Scripts only: Latin, Chinese, Japanese, Cyrillic … Where the prompt speaks of a"
        " language or mixes scripts, the rule could not check."
    ),
    "refusal": _("“I’m sorry, but I can’t …”, “抱歉，我无法……”, near the beginning."),
    "contradiction": _(
        "The same prompt and texts, preferred the other way round: the majority stays,"
        " else neither."
    ),
    "near_duplicate": _(
        "Many prompts that differ in one word are honest work: look at the preview first."
    ),
}
"""What a rule's label does not say."""

_CHOSEN = _("chosen by the trainer")

GROUPS: list[tuple[Any, Any, list[Setting]]] = [
    (
        _("Sampling"),
        _("How the model writes the two answers of a pair."),
        [
            Setting(
                "sampling.temperature",
                "float",
                _("Temperature"),
                _("Higher: the two answers differ more. Usual: 0.7 to 1.2."),
            ),
            Setting("sampling.top_p", "float", "top-p", _("Usual: 0.9 to 1.")),
            Setting(
                "sampling.max_tokens",
                "int",
                _("Longest answer, in tokens"),
                _("An answer cut off here never trains. Usual: 128 to 1024."),
            ),
            Setting(
                "sampling.system_prompt",
                "text",
                _("System prompt"),
                _("Put before every prompt that brings none of its own."),
            ),
        ],
    ),
    (
        _("Stock and judging"),
        _("How pairs are kept ready and handed out."),
        [
            Setting(
                "stock",
                "int",
                _("Pairs kept ready"),
                _(
                    "So that nobody waits for the model. About three for each annotator."
                ),
            ),
            Setting(
                "next_comparison",
                "choice",
                _("Which pair comes next"),
                _(
                    "The oldest is usual. At random, everybody sees a fair sample at any"
                    " time. Fewest judgments first spreads judgments over many pairs."
                ),
                choices=tuple(NextComparison.choices),
            ),
            Setting(
                "lease_minutes",
                "float",
                _("Minutes a pair stays reserved"),
                _("For the annotator who is looking at it. Usual: 5 to 30."),
            ),
            Setting(
                "held_out_share",
                "float",
                _("Share of prompts held out"),
                _(
                    "Set aside on import: they measure and never train. Usual: 0.05 to 0.2."
                ),
            ),
            Setting(
                "ask_strength",
                "flag",
                _("Ask how much better"),
                _(
                    "Slightly, clearly, much: one more key stroke, if the annotator wants."
                ),
            ),
            Setting(
                "ask_reasons",
                "lines",
                _("Reasons to tick"),
                _(
                    "One a line, such as “correct”, “clear”, “polite”. Empty: not asked."
                ),
            ),
            Setting(
                "criteria",
                "lines",
                _("Criteria to judge one by one"),
                _(
                    "One a line, such as “helpful”, “harmless”; each is judged A, B or"
                    " tie beside the verdict, and may be left out. Usual: none, or 2 to 4."
                ),
            ),
        ],
    ),
    (
        _("Overlap and decisions"),
        _("How many people judge the same pair, and what their judgments come to."),
        [
            Setting(
                "quota",
                "int",
                _("Judgments for each pair"),
                _(
                    "1 is fastest; 3 lets a majority decide. Applies to pairs made from now on."
                ),
            ),
            Setting(
                "overlap_share",
                "float",
                _("Share of pairs judged so often"),
                _(
                    "0 to 1; the others are judged once. 1: all of them. Usual: 0.1 to 0.3"
                    " to know how far annotators agree at little cost."
                ),
            ),
            Setting(
                "decide_by",
                "choice",
                _("Decided by"),
                _(
                    "Majority: more than half. Weighted: each annotator counts by how"
                    " often others bear them out (Dawid and Skene); usual from five"
                    " annotators on. A reviewer: every pair waits for one. What stays"
                    " open waits for a reviewer either way."
                ),
                choices=tuple(DecideBy.choices),
            ),
            Setting(
                "min_posterior",
                "float",
                _("Certainty a weighted decision needs"),
                _(
                    "A probability from 0.5 to 0.999; below it, a reviewer decides."
                    " Usual: 0.8 to 0.95."
                ),
            ),
        ],
    ),
    (
        _("Gold and repeats"),
        _(
            "Comparisons mixed in silently to measure annotators: pairs whose answer is"
            " known, and their own earlier ones with sides swapped. They never train."
        ),
        [
            Setting(
                "gold_rate",
                "float",
                _("Share of gold"),
                _("Of what is handed out. Usual: 0.05. 0: none, and no floor."),
            ),
            Setting(
                "repeat_rate",
                "float",
                _("Share of repeats"),
                _("Of what is handed out. Usual: 0.03. 0: none."),
            ),
            Setting(
                "gold_floor",
                "float",
                _("Floor on gold"),
                _(
                    "Below this share right, an annotator’s new judgments wait for a"
                    " reviewer. Usual: 0.7. 0: no floor."
                ),
            ),
            Setting(
                "gold_least",
                "int",
                _("Gold judged before the floor applies"),
                _("Usual: 10. The latest three times as many count."),
            ),
        ],
    ),
    (
        _("Rounds"),
        _(
            "What a round takes for fields that were left empty when it was started. Empty here as well: chosen by the trainer."
        ),
        [
            Setting(
                "round.preset",
                "choice",
                _("Preset"),
                _(
                    "Cumulative: a fresh adapter on all sound pairs; forgets nothing."
                    " Incremental: goes on from the serving policy on the new pairs."
                ),
                choices=(
                    ("cumulative", _("cumulative")),
                    ("incremental", _("incremental")),
                ),
            ),
            Setting(
                "round_pairs",
                "int",
                _("New pairs that are enough for a round"),
                _(
                    "The overview says when there will be so many; a round may start"
                    " sooner. Usual: 20 to 100 for the starter model, several hundred"
                    " at 0.5–8B parameters."
                ),
            ),
            Setting(
                "auto_deploy",
                "flag",
                _("Serve a new policy at once"),
                _("Otherwise it waits as a candidate until a manager deploys it."),
            ),
            Setting(
                "round.config.beta",
                "float",
                "beta",
                _("How near to the reference it stays. Usual: 0.1 to 0.5."),
                "0.1",
            ),
            Setting(
                "round.config.learning_rate",
                "float",
                _("Learning rate"),
                _(
                    "LoRA: 2e-5 to 1e-4 at 0.5–8B parameters, 5e-4 for the starter model."
                ),
                _CHOSEN,
            ),
            Setting(
                "round.config.epochs",
                "float",
                _("Epochs"),
                _("1 to 3 on much data, more on little."),
                _CHOSEN,
            ),
            Setting(
                "round.config.sft_epochs",
                "float",
                _("Supervised epochs first"),
                _(
                    "On the chosen answers, before the comparison counts: 1 or 2 where"
                    " answers are edited or imported."
                ),
                "0",
            ),
            Setting(
                "round.config.batch_size",
                "int",
                _("Pairs in each step"),
                _("Small data needs small steps: at least 100 updates a round."),
                _CHOSEN,
            ),
            Setting(
                "round.config.max_length",
                "int",
                _("Longest text, in tokens"),
                _("Usual: 512 to 1024 and up."),
                "1024",
            ),
            Setting(
                "round.config.warmup_ratio",
                "float",
                _("Warm-up, as a share of the steps"),
                _("Usual: 0.1."),
                "0.1",
            ),
            Setting(
                "round.config.lora.r", "int", _("LoRA rank"), _("Usual: 8 to 64."), "16"
            ),
            Setting(
                "round.config.lora.alpha",
                "float",
                _("LoRA alpha"),
                _("Usual: twice the rank."),
                "32",
            ),
        ],
    ),
]


def param_words(params: dict[str, Any]) -> list[tuple[Any, Any]]:
    """A verdict's parameters as a person reads them: (label, value)."""
    found = []
    for name, value in params.items():
        label = _PARAMS[name][1] if name in _PARAMS else name
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, bool):
            value = _("yes") if value else _("no")
        elif name in _PARAMS and len(_PARAMS[name]) > 3:
            value = dict(_PARAMS[name][3]).get(value, value)
        if value != "":
            found.append((label, value))
    return found


def rule_groups(rules: dict[str, dict[str, Any]]) -> list[tuple[Any, Any, list]]:
    """The fields of the Rules page: a group for the rules, one for what they can't say."""
    about = _(
        "A pair is kept from training where something ticked here holds. Unequal"
        " shortest lengths favour long answers: raise one with care."
    )
    unchecked = Setting(
        "accept_unchecked",
        "flag",
        _("Let pairs train that a rule could not check"),
        _("They keep the mark. Off: a broken rule stops every pair."),
    )
    return [
        (_("What a pair must pass"), about, rule_settings(rules)),
        (_("Where a rule could not check"), "", [unchecked]),
    ]


def rule_settings(rules: dict[str, dict[str, Any]]) -> list[Setting]:
    settings = []
    for rule, params in rules.items():
        label, about = RULES.get(rule, rule), _ABOUT.get(rule, "")
        settings.append(Setting(f"rules.{rule}.on", "flag", label, about))
        for param in params:
            if param in _PARAMS:
                kind, words, usual, *choices = _PARAMS[param]
                name = f"rules.{rule}.{param}"
                settings.append(
                    Setting(name, kind, words, usual, choices=tuple(*choices))
                )
    return settings

"""Which settings a project's page asks for, in which words, with what is usual.

Names are the dotted names of project_settings; ranges are checked there alone. The form
made of them is in settings_form.py.
"""

from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _

from annotation.project_settings import NextComparison
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


_PARAMS = {
    "min_columns": (
        "int",
        _("At least this wide"),
        _("In columns; a Chinese character counts two. Usual: 50 chosen, 20 rejected."),
    ),
    "max_ratio": ("float", _("At most this similar"), _("0 to 1. Usual: 0.9.")),
    "max_tokens": (
        "int",
        _("At most this many tokens"),
        _("Prompt and answer together. Usual: 512 to 1024 and up."),
    ),
}

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
                "quota",
                "int",
                _("Judgments for each pair"),
                _(
                    "1 is fastest; 3 lets a majority decide. Holds for pairs made from now on."
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
        ],
    ),
    (
        _("Rules"),
        _(
            "A pair is kept from training where something ticked here holds. Unequal"
            " shortest lengths favour long answers: raise one with care."
        ),
        [],
    ),
    (
        _("Rounds"),
        _(
            "What a round starts with when its starter says nothing. Empty: chosen by the trainer."
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


def rule_settings(rules: dict[str, dict[str, Any]]) -> list[Setting]:
    settings = []
    for rule, params in rules.items():
        label = RULES.get(rule, rule)
        settings.append(Setting(f"rules.{rule}.on", "flag", label))
        for param in params:
            if param in _PARAMS:
                kind, words, usual = _PARAMS[param]
                name = f"rules.{rule}.{param}"
                settings.append(Setting(name, kind, words, usual))
    if rules:
        settings.append(
            Setting(
                "accept_unchecked",
                "flag",
                _("Let pairs train that a rule could not check"),
                _("They keep the mark. Off: a broken rule stops every pair."),
            )
        )
    return settings

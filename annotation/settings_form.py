"""The settings of a project as a form: groups of fields with what is usual beside them.

Field names are the dotted names of project_settings (`rules.similarity.max_ratio`), so
an error of the check lands on its field. What the form does not show (set through the
API) is kept as it is. The ranges are checked by `project_settings.checked` alone.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from django import forms
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from annotation import project_settings
from annotation.errors import SettingsError
from annotation.models import Project
from annotation.words import RULES


@dataclass(frozen=True)
class Setting:
    """One field: where its value lives, how it is asked for, what is usual."""

    name: str
    kind: str
    """int, float, flag, text, lines (one item a line) or a tuple of choices."""
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

_DEFAULTS = asdict(project_settings.ProjectSettings())
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
                _("So that nobody waits for the model. About three for each annotator."),
            ),
            Setting(
                "quota",
                "int",
                _("Judgments for each pair"),
                _("1 is fastest; 3 lets a majority decide. Holds for pairs made from now on."),
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
                _("Set aside on import: they measure and never train. Usual: 0.05 to 0.2."),
            ),
            Setting(
                "ask_strength",
                "flag",
                _("Ask how much better"),
                _("Slightly, clearly, much: one more key stroke, if the annotator wants."),
            ),
            Setting(
                "ask_reasons",
                "lines",
                _("Reasons to tick"),
                _("One a line, such as “correct”, “clear”, “polite”. Empty: not asked."),
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
        _("What a round starts with when its starter says nothing. Empty: chosen by the trainer."),
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
                _("LoRA: 2e-5 to 1e-4 at 0.5–8B parameters, 5e-4 for the starter model."),
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
                "round.config.batch_size",
                "int",
                _("Pairs in each step"),
                _("Small data needs small steps: at least 50 updates a round."),
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
            Setting("round.config.lora.r", "int", _("LoRA rank"), _("Usual: 8 to 64."), "16"),
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


def _rule_settings(rules: dict[str, dict[str, Any]]) -> list[Setting]:
    settings = []
    for rule, params in rules.items():
        label = RULES.get(rule, rule)
        settings.append(
            Setting(f"rules.{rule}.on", "flag", format_lazy("{}", label))
        )
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


def _field(setting: Setting) -> forms.Field:
    common = {"label": setting.label, "help_text": setting.help, "required": False}
    hint = {"placeholder": setting.placeholder} if setting.placeholder else {}
    if setting.kind == "int":
        return forms.IntegerField(widget=forms.NumberInput(attrs=hint), **common)
    if setting.kind == "float":
        attrs = {"step": "any", **hint}
        return forms.FloatField(widget=forms.NumberInput(attrs=attrs), **common)
    if setting.kind == "flag":
        return forms.BooleanField(**common)
    if setting.kind == "choice":
        return forms.ChoiceField(choices=setting.choices, **common)
    return forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}), strip=False, **common
    )


class SettingsForm(forms.Form):
    """Bound or not, it starts from the project's own settings, defaults filled in."""

    name = forms.CharField(label=_("Name"), max_length=120)
    guidelines = forms.CharField(
        label=_("Guidelines"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 8}),
        help_text=_("Markdown; annotators open it beside the answers."),
    )

    def __init__(self, project: Project, data: Any = None) -> None:
        self.project = project
        self.own = asdict(project_settings.of(project))
        rules = _rule_settings(self.own["rules"])
        self.settings_groups = [
            (title, about, settings or rules) for title, about, settings in GROUPS
        ]
        initial = {"name": project.name, "guidelines": project.guidelines}
        for setting in self._settings():
            value = _lookup(self.own, setting.name)
            initial[setting.name] = (
                "\n".join(value or []) if setting.kind == "lines" else value
            )
        super().__init__(data, initial=initial)
        for setting in self._settings():
            self.fields[setting.name] = _field(setting)

    def groups(self) -> Iterator[dict[str, Any]]:
        """The groups with their bound fields; a rule's fields make one block."""
        for title, about, settings in self.settings_groups:
            blocks: dict[str, list[forms.BoundField]] = {}
            for setting in settings:
                is_rule = setting.name.startswith("rules.")
                block = setting.name.rpartition(".")[0] if is_rule else setting.name
                blocks.setdefault(block, []).append(self[setting.name])
            yield {"title": title, "about": about, "blocks": list(blocks.values())}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.errors:
            return cleaned
        wanted = {**self.project.settings}
        for setting in self._settings():
            value = cleaned[setting.name]
            if setting.kind == "lines":
                value = [line.strip() for line in value.splitlines() if line.strip()]
            elif setting.kind == "text":
                value = value.replace("\r\n", "\n")
            elif value is None and not setting.name.startswith("round.config."):
                # Saving merges: only naming the default brings it back.
                value = _lookup(_DEFAULTS, setting.name)
            _put(wanted, setting.name, value)
        try:
            cleaned["settings"] = project_settings.checked(wanted)
        except SettingsError as error:
            field = error.field
            while field and field not in self.fields:
                field = field.rpartition(".")[0]
            self.add_error(field or None, error.message)
        return cleaned

    def _settings(self) -> Iterator[Setting]:
        for _title, _about, settings in self.settings_groups:
            yield from settings


def _lookup(tree: dict[str, Any], dotted: str) -> Any:
    value: Any = tree
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a value deep down; None removes what was there, emptied branches with it.

    Branches are copied on the way: the project's own settings stay as they are.
    """
    name, _dot, rest = dotted.partition(".")
    if not rest:
        if value is None:
            tree.pop(name, None)
        else:
            tree[name] = value
        return
    branch = dict(tree[name]) if isinstance(tree.get(name), dict) else {}
    _put(branch, rest, value)
    if branch or name in ("round", "config"):
        tree[name] = branch
    else:
        tree.pop(name, None)

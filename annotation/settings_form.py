"""The settings of a project as a form: groups of fields with what is usual beside them.

Field names are the dotted names of project_settings (`rules.similarity.max_ratio`), so
an error of the check lands on its field. What the form does not show (set through the
API) is kept as it is, and so is what stands in it as it came: somebody else may have
saved another value meanwhile. Which fields there are is in settings_fields.py.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from annotation import project_settings
from annotation.errors import SettingsError
from annotation.models import Project
from annotation.projects import MAX_NAME, checked_guidelines
from annotation.settings_fields import GROUPS, Setting, rule_groups

_DEFAULTS = asdict(project_settings.ProjectSettings())


def _field(setting: Setting) -> forms.Field:
    common = {
        **{"label": setting.label, "help_text": setting.help},
        **{"required": False, "show_hidden_initial": True},
    }
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


class _Fields(forms.Form):
    """Bound or not, it starts from the project's own settings, defaults filled in."""

    def __init__(self, project: Project, data: Any = None, initial: Any = None) -> None:
        self.project = project
        self.own = asdict(project_settings.of(project))
        self.settings_groups = self._groups()
        initial = initial or {}
        for setting in self._settings():
            value = _lookup(self.own, setting.name)
            initial[setting.name] = (
                "\n".join(value or []) if setting.kind == "lines" else value
            )
        super().__init__(data, initial=initial)
        for setting in self._settings():
            self.fields[setting.name] = _field(setting)

    def _groups(self) -> list[tuple[Any, Any, list[Setting]]]:
        raise NotImplementedError

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
        wanted = {**self.project.settings}
        for setting in self._settings():
            value = cleaned.get(setting.name)
            # One that is wrong already counts as left, so that the others are checked.
            if self.is_left(setting.name) or setting.name in self.errors:
                value = _lookup(self.own, setting.name)
            elif setting.kind == "lines":
                value = [line.strip() for line in value.splitlines() if line.strip()]
            elif setting.kind == "text":
                value = value.replace("\r\n", "\n")
            elif value in (None, "") and not setting.name.startswith("round.config."):
                # Saving merges: only naming the default brings it back.
                value = _lookup(_DEFAULTS, setting.name)
            _put(wanted, setting.name, value)
        try:
            cleaned["settings"] = project_settings.checked(wanted)
        except SettingsError as error:
            for dotted, message in error.errors:
                field = dotted
                while field and field not in self.fields:
                    field = field.rpartition(".")[0]
                if field:
                    message = self._renamed(message, dotted, field)
                self.add_error(field or None, message)
        return cleaned

    def _renamed(self, message: str, dotted: str, field: str) -> str:
        """With the name that stands on the page, and which of its lines it is."""
        number = dotted.removeprefix(field).lstrip(".")
        line = f" {int(number) + 1}" if number.isdecimal() else ""
        return message.replace(f"“{dotted}”", f"“{self[field].label}{line}”")

    def is_left(self, name: str) -> bool:
        """Whether the field came back with the value that the page had shown."""
        was_told = self[name].html_initial_name in self.data
        return was_told and name not in self.changed_data

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


class SettingsForm(_Fields):
    name = forms.CharField(
        label=_("Name"), max_length=MAX_NAME, show_hidden_initial=True
    )
    guidelines = forms.CharField(
        label=_("Guidelines"),
        required=False,
        show_hidden_initial=True,
        widget=forms.Textarea(attrs={"rows": 8}),
        help_text=_("Markdown; annotators open it beside the answers."),
    )

    def __init__(self, project: Project, data: Any = None) -> None:
        initial = {"name": project.name, "guidelines": project.guidelines}
        super().__init__(project, data, initial)

    def clean_guidelines(self) -> str:
        try:
            return checked_guidelines(self.cleaned_data["guidelines"])
        except SettingsError as error:
            message = self._renamed(error.message, error.field, error.field)
            raise forms.ValidationError(message) from None

    def _groups(self) -> list[tuple[Any, Any, list[Setting]]]:
        return GROUPS


class RulesForm(_Fields):
    """The rules alone; what else the project's settings say stays."""

    def _groups(self) -> list[tuple[Any, Any, list[Setting]]]:
        return rule_groups(self.own["rules"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if "settings" in cleaned:
            own = ("rules", "accept_unchecked")
            cleaned["settings"] = {name: cleaned["settings"][name] for name in own}
        return cleaned

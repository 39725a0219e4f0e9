"""The form of the preferences page: a key for each act, pace and text size."""

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation import keys
from annotation.models import Preferences
from annotation.preferences import BEATS

_BEAT_WORDS = {
    0: gettext_lazy("at once"),
    120: gettext_lazy("a tenth of a second"),
    350: gettext_lazy("a third of a second"),
    700: gettext_lazy("just over half a second"),
}
_KEY = "key_"
_OTHERS = ("beat", "break_minutes", "text_size")


class KeyField(forms.CharField):
    """One character; a capital is taken as the key it stands on."""

    def __init__(self, label: Any) -> None:
        widget = forms.TextInput(
            attrs={
                "size": 2,
                "maxlength": 1,
                "class": "key-box",
                "autocomplete": "off",
                "autocapitalize": "off",
                "spellcheck": "false",
            }
        )
        super().__init__(label=label, max_length=1, required=False, widget=widget)

    def clean(self, value: Any) -> str:
        key = super().clean(value).lower()
        if key and not keys.is_key(key):
            raise forms.ValidationError(
                _("This can't be a key here. Use a letter, a digit or a mark.")
            )
        return key


class PreferencesForm(forms.Form):
    beat = forms.TypedChoiceField(
        label=gettext_lazy("How long your pick stays in sight before the next pair"),
        choices=[(beat, _BEAT_WORDS[beat]) for beat in BEATS],
        coerce=int,
    )
    break_minutes = forms.IntegerField(
        label=gettext_lazy("Suggest a break after this many minutes of work"),
        help_text=gettext_lazy("0: never. Usual: 50."),
        min_value=0,
        max_value=600,
    )
    text_size = forms.ChoiceField(
        label=gettext_lazy("Size of prompts and answers"),
        choices=Preferences.TextSize.choices,
        required=False,
    )

    def __init__(self, own: Preferences, data: Any = None) -> None:
        initial = {name: getattr(own, name) for name in _OTHERS}
        for act, key in keys.keys_of(own.keys).items():
            initial[_KEY + act] = key
        super().__init__(data, initial=initial)
        for act, (_default, words) in keys.ACTS.items():
            self.fields[_KEY + act] = KeyField(words)

    def key_fields(self) -> list[forms.BoundField]:
        return [self[_KEY + act] for act in keys.ACTS if act not in keys.REASONS]

    def reason_fields(self) -> list[forms.BoundField]:
        return [self[_KEY + act] for act in keys.REASONS]

    def other_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in _OTHERS]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.errors:
            return cleaned
        for key, acts in keys.clashes(self.keys()).items():
            for act in acts:
                others = [str(keys.ACTS[other][1]) for other in acts if other != act]
                self.add_error(
                    _KEY + act,
                    _("The key “%(key)s” is also that of: %(others)s.")
                    % {"key": key.upper(), "others": ", ".join(others)},
                )
        return cleaned

    def keys(self) -> dict[str, str]:
        """{act: key}, "" where none is wanted."""
        return {act: self.cleaned_data[_KEY + act] for act in keys.ACTS}

    def others(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in _OTHERS}

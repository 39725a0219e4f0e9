"""The keys of the compare page: which acts have one, and which one until changed.

What a key does is in the templates (`data-act`) and static/keys.js; whose keys
differ is in the model Preferences.
"""

from collections.abc import Mapping
from typing import Any

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

REASONS = [f"reason_{number}" for number in range(1, 10)]
"""The project's first nine reasons, in their order."""

ACTS: dict[str, tuple[str, Any]] = {
    "first": ("1", _("A is better")),
    "second": ("2", _("B is better")),
    "tie": ("0", _("Tie: both equally good")),
    "both_bad": ("b", _("Both are bad")),
    "slightly": ("7", _("Slightly better, before the pick")),
    "clearly": ("8", _("Clearly better, before the pick")),
    "much": ("9", _("Much better, before the pick")),
    "criteria": ("k", _("Judge the criteria, one after the other")),
    "edit_first": ("e", _("Improve answer A")),
    "edit_second": ("r", _("Improve answer B")),
    "comment": ("c", _("Write a comment")),
    "skip": ("s", _("Skip: not offered to you again")),
    "flag": ("f", _("Flag: something is wrong with this pair")),
    "undo": ("u", _("Undo your last judgment")),
    "last": ("l", _("Open or shut your last ten judgments")),
    "difference": ("d", _("Show how the two answers differ")),
    "guidelines": ("g", _("Open or shut the guidelines")),
    "help": ("?", _("Show the keys")),
    **{
        act: (key, format_lazy(_("Reason number {number}"), number=number))
        for number, (act, key) in enumerate(
            zip(REASONS, "3456zxvnm", strict=True), start=1
        )
    },
}
"""{act: (its key unless changed, what it does in words)}."""


def defaults() -> dict[str, str]:
    return {act: key for act, (key, _words) in ACTS.items()}


def keys_of(changed: Mapping[str, str]) -> dict[str, str]:
    """{act: key} with what somebody has changed; an act without a key has ""."""
    return {act: changed.get(act, key) for act, key in defaults().items()}


def clashes(keys: Mapping[str, str]) -> dict[str, list[str]]:
    """{key: acts} of every key that more than one act has."""
    used: dict[str, list[str]] = {}
    for act, key in keys.items():
        if key:
            used.setdefault(key, []).append(act)
    return {key: acts for key, acts in used.items() if len(acts) > 1}


def is_key(text: str) -> bool:
    """Whether it can be one key: a single printing character, no capital, no space.

    Backspace, Enter, Escape, Tab and the space have their own meaning on any page.
    """
    return (
        len(text) == 1
        and text.isprintable()
        and not text.isspace()
        and text == text.lower()
    )

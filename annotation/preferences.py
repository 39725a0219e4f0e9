"""One person's preferences for the compare page: read, saved, put in words."""

from typing import Any

from annotation import keys
from annotation.desk import Desk
from annotation.models import Preferences

BEATS = (0, 120, 350, 700)
"""Milliseconds that can be chosen; the database takes any up to two seconds."""


def of(user) -> Preferences:
    """The user's own, or the defaults (not saved)."""
    return Preferences.objects.filter(user=user).first() or Preferences(user=user)


def save(user, wanted: dict[str, str], **others: Any) -> Preferences:
    """Keep what differs from the default keys; `others` are the model's fields."""
    changed = {
        act: key for act, key in wanted.items() if key != keys.defaults().get(act)
    }
    return Preferences.objects.update_or_create(
        user=user, defaults={"keys": changed, **others}
    )[0]


def reset(user) -> None:
    Preferences.objects.filter(user=user).delete()


def acts_in_words(
    own: Preferences, desk: Desk, has_guidelines: bool
) -> list[tuple[str, str, str]]:
    """(act, key, what it does) of every act that this desk has; reasons by name."""
    absent = {
        *(() if desk.ask_strength else ("slightly", "clearly", "much")),
        *(() if desk.criteria else ("criteria",)),
        *(() if has_guidelines else ("guidelines",)),
        *keys.REASONS[len(desk.ask_reasons) :],
    }
    reasons = dict(zip(keys.REASONS, desk.ask_reasons, strict=False))
    return [
        (act, key, reasons.get(act) or str(keys.ACTS[act][1]))
        for act, key in keys.keys_of(own.keys).items()
        if act not in absent and key
    ]

"""Words and figures of rounds and policies for templates."""

from typing import Any

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from training.models import TrainingRound
from training.queries import is_number

register = template.Library()

BADGES = {
    "succeeded": "good",
    "serving": "good",
    "failed": "bad",
    "rejected": "bad",
    "cancelled": "warn",
    "candidate": "warn",
}


SETTLED = (
    gettext_noop("given"),
    gettext_noop("usual for LoRA on a model of %(size)s million weights"),
    gettext_noop(
        "usual for supervised training with LoRA on a model of %(size)s million weights"
    ),
    gettext_noop(
        "%(pairs)s pairs: few pairs are seen more often, for at least %(updates)s updates"
        " where %(epochs)s epochs allow it"
    ),
    gettext_noop(
        "the largest power of two that leaves at least %(least)s updates; it makes"
        " %(updates)s"
    ),
)
"""Why training/dpo/defaults.py chose a figure; told again by `retold`."""


@register.filter
def badge(state: str) -> str:
    """The CSS class that goes with a state of a round or policy."""
    return BADGES.get(state, "")


@register.filter
def state_words(state: str) -> str:
    """A policy's state for people."""
    return {
        "serving": _("serving"),
        "candidate": _("candidate"),
        "retired": _("served before"),
        "rejected": _("rejected"),
    }.get(state, state)


@register.filter
def round_state(state: str) -> str:
    """A round's state for people, wherever it was written down."""
    return str(dict(TrainingRound.State.choices).get(state, state))


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds as a person would say them: 45 s, 3 min, 2 h 5 min."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 90:
        return _("%(seconds)d s") % {"seconds": whole}
    minutes = round(whole / 60)
    if minutes < 90:
        return _("%(minutes)d min") % {"minutes": minutes}
    return _("%(hours)d h %(minutes)d min") % {
        "hours": minutes // 60,
        "minutes": minutes % 60,
    }


@register.filter
def figure(value: Any) -> str:
    """A metric with four significant digits; a dash where there is none."""
    return f"{value:.4g}" if is_number(value) else "–"


@register.filter
def between(start: Any, end: Any) -> str:
    """The time from one moment to another, in words."""
    return duration((end - start).total_seconds()) if start and end else ""


@register.filter
def activity_words(activity: dict) -> str:
    """What the trainer is at, for people."""
    phase = activity.get("phase", "")
    words = {
        "loading": _("Loading the model"),
        "reading": _("Reading the pairs"),
        "reference": _("Measuring the reference"),
        "evaluating": _("Measuring the held-out pairs"),
        "sft": _("Supervised training"),
        "training": _("Training"),
        "scoring": _("Scoring the pairs"),
        "saving": _("Saving the adapter"),
        "done": _("Finishing"),
    }.get(phase, phase)
    done, of = activity.get("done"), activity.get("of")
    if (
        phase not in ("", "sft", "training")
        and is_number(done)
        and is_number(of)
        and of
    ):
        return f"{words}: {done} / {of}"
    return words

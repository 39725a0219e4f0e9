"""Figures in words and as a chart's numbers, for templates."""

from django import template

from annotation.shares import Share
from annotation.sways import SWAYS, is_beyond
from annotation.words import flag_words

register = template.Library()
register.filter("flag_words", flag_words)


@register.filter
def shares(report: dict) -> list[tuple[Share, bool]]:
    """A report's shares in the order of their columns, and whether each is flagged."""
    return [(report[sway], is_beyond(sway, report[sway])) for sway in SWAYS]


@register.filter
def plain(value: float | None) -> str:
    """A number for a chart, the same in every language; "" for none."""
    return "" if value is None else f"{value:.4f}"

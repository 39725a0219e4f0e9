"""Instants that rows keep, read by a clock that may be set back."""

from datetime import timedelta

from django.db.models import Q
from django.utils import timezone


def not_lately(field: str, span: timedelta) -> Q:
    """Of rows on which `field` was not written for so long, or never was.

    An instant of the future was written before the clock was set back: whoever lives
    writes by the new one.
    """
    now = timezone.now()
    old, ahead = {f"{field}__lt": now - span}, {f"{field}__gt": now + span}
    return Q(**{field: None}) | Q(**old) | Q(**ahead)

"""Which judgments stand, now or at an instant; a leaf, so that all reads may use it."""

from datetime import datetime

from django.db.models import Q
from django.utils import timezone


def standing(at: datetime | None = None, path: str = "") -> Q:
    """Of the judgment at `path`: it stands, or stood at that instant."""
    undone = f"{path}undone_at"
    if at is None:
        return Q(**{undone: None})
    return Q(**{f"{path}created_at__lt": at}) & (
        Q(**{undone: None}) | Q(**{f"{undone}__gte": at})
    )


def last_full_hour() -> datetime:
    """What people are told of themselves is as of then: renewed at once, a figure that
    counts gold, or that leaves it out, would tell which pair was gold."""
    return full_hour(timezone.now())


def full_hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)

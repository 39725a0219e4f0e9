"""Rows in batches: of an iterable, and of a table read page by page."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from django.db.models import Q, QuerySet

CHUNK = 500
"""SQLite's oldest limit on values in one statement is 999."""


def in_batches(rows: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
    rest = iter(rows)
    while batch := list(islice(rest, size)):
        yield batch


def paged(rows: QuerySet, *keys: str, size: int = CHUNK) -> Iterator[Any]:
    """All rows in the order of `keys`, which tell them apart, a page in memory at a time.

    Each page is a query of its own from where the last one ended: a slow download holds
    no transaction open, neither a snapshot on PostgreSQL nor a read lock on SQLite.
    """
    keys = keys or ("pk",)
    rows = rows.order_by(*keys)
    rest = rows
    while page := list(rest[:size]):
        yield from page
        if len(page) < size:
            return
        rest = rows.filter(_after(page[-1], keys))


def _after(row: Any, keys: tuple[str, ...]) -> Q:
    after, equal = Q(), Q()
    for key in keys:
        value = getattr(row, key)
        after |= equal & Q(**{f"{key}__gt": value})
        equal &= Q(**{key: value})
    return after

"""Which comparisons wait for an annotator, in the order that the project wants.

Reads only, and outside of any transaction: an offer may be gone by the time somebody
takes it, which the conditional UPDATE in leasing.py notices.
"""

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from annotation import sql
from annotation.models import Comparison, Project
from annotation.project_settings import NextComparison

# How many are looked at together: more than annotators who may be claiming at the
# same moment, so one look nearly always finds a free slot.
WINDOW = 16

_COMPARISON = sql.Columns(
    Comparison, "c", "id", "project", "prompt", "a", "b", "purpose"
)

FREE = "(s.state = 'open' OR (s.state = 'leased' AND s.expires_at <= %s))"
"""Slots that may be taken: open, or leased by somebody whose time is over."""

NOT_JUDGED = (
    "NOT EXISTS (SELECT 1 FROM annotation_judgment j WHERE j.comparison_id = {0}"
    " AND j.annotator_id = %s AND j.undone_at IS NULL LIMIT 1 OFFSET 0)"
)
NOT_SKIPPED = (
    "NOT EXISTS (SELECT 1 FROM annotation_lease l WHERE l.comparison_id = {0}"
    " AND l.annotator_id = %s AND l.outcome = 'skipped' LIMIT 1 OFFSET 0)"
)

# OFFSET 0 keeps PostgreSQL from making joins of these, which read whole tables in the
# hope of soon having found enough; so each waiting comparison is looked up by itself.
_WAITING = f"""
SELECT {_COMPARISON.sql} FROM annotation_comparison c
WHERE c.project_id = %s AND c.state = 'open'
AND c.purpose IN ({", ".join(f"'{purpose}'" for purpose in Comparison.OFFERED)})
AND EXISTS (SELECT 1 FROM annotation_slot s WHERE s.comparison_id = c.id AND {FREE}
    LIMIT 1 OFFSET 0)
AND {NOT_JUDGED.format("c.id")} AND {NOT_SKIPPED.format("c.id")}
"""

# Each follows an index of the waiting comparisons, and reads no more than a window of
# them and those in between that this annotator has judged or skipped.
_OLDEST = " ORDER BY c.id LIMIT %s"
_FEWEST = " ORDER BY c.judged, c.id LIMIT %s"
_SHUFFLED = " AND c.shuffle {0} %s ORDER BY c.shuffle LIMIT %s"


def offers(
    project: Project,
    annotator_id: int,
    order: str,
    now: datetime,
    besides: Sequence[int] = (),
) -> list[tuple]:
    """The next WINDOW comparisons with room for this annotator, as `comparison_of` reads
    them, the first to be taken first. Those `besides` are left out.
    """
    statement, params = _WAITING, [project.pk, now, annotator_id, annotator_id]
    if besides:
        statement += f" AND c.id NOT IN ({', '.join(['%s'] * len(besides))})"
        params.extend(besides)
    if order == NextComparison.RANDOM:
        return _shuffled(statement, params)
    by = _FEWEST if order == NextComparison.FEWEST else _OLDEST
    return sql.rows(statement + by, *params, WINDOW)


def comparison_of(offer: tuple) -> Comparison:
    """Made of the few that are tried, not of all that are offered."""
    return _COMPARISON.row(offer)


def _shuffled(statement: str, params: list[Any]) -> list[tuple]:
    """From a random place in the shuffled order on, then from its beginning."""
    place = random.random()
    found = sql.rows(statement + _SHUFFLED.format(">="), *params, place, WINDOW)
    missing = WINDOW - len(found)
    if missing:
        found += sql.rows(statement + _SHUFFLED.format("<"), *params, place, missing)
    return found

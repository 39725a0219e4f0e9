"""Which comparisons wait for an annotator, in the order that the project wants.

Reads only, and outside of any transaction: an offer may be gone by the time somebody
takes it, which the conditional UPDATE in leasing.py notices.
"""

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from annotation import sql
from annotation.models import Comparison, Project
from annotation.project_settings import NextComparison

# How many are looked at together: more than annotators who may be claiming at the
# same moment, so one look nearly always finds a free slot.
WINDOW = 16

OFFERED = (Comparison.Purpose.TRAIN, Comparison.Purpose.HEAD_TO_HEAD)
"""Gold and repeat comparisons are made for one person when they are handed out."""

COMPARISON = sql.Columns(Comparison, "c", "id", "project", "prompt", "a", "b")

FREE = "(s.state = 'open' OR (s.state = 'leased' AND s.expires_at <= %s))"
"""Slots that may be taken: open, or leased by somebody whose time is over."""

NOT_JUDGED = (
    "NOT EXISTS (SELECT 1 FROM annotation_judgment j WHERE j.comparison_id = {0}"
    " AND j.annotator_id = %s AND j.undone_at IS NULL)"
)

_WAITING = f"""
SELECT s.id, s.lease_id, {COMPARISON.sql}
FROM annotation_comparison c
JOIN annotation_slot s ON s.comparison_id = c.id AND {FREE}
WHERE c.project_id = %s AND c.state = 'open'
AND c.purpose IN ({", ".join(f"'{purpose}'" for purpose in OFFERED)})
AND {NOT_JUDGED.format("c.id")}
AND NOT EXISTS (SELECT 1 FROM annotation_lease l WHERE l.comparison_id = c.id
    AND l.annotator_id = %s AND l.outcome = 'skipped')
"""

# Each follows an index of the waiting comparisons, and reads no more than a window of
# them and those in between that this annotator has judged or skipped.
_OLDEST = " ORDER BY c.id, s.number LIMIT %s"
_FEWEST = " ORDER BY c.judged, c.id, s.number LIMIT %s"
_SHUFFLED = " AND c.shuffle {0} %s ORDER BY c.shuffle, s.number LIMIT %s"


class Offer(NamedTuple):
    """A slot that was free, and the lease that ran out on it, if one did."""

    slot_id: int
    ended: UUID | str | None
    columns: tuple
    """Of its comparison, most of whose rows nobody looks at."""

    @property
    def comparison(self) -> Comparison:
        return COMPARISON.row(self.columns)


def offers(
    project: Project,
    annotator_id: int,
    order: str,
    now: datetime,
    besides: int = 0,
    tried: Sequence[int] = (),
) -> list[Offer]:
    """The next WINDOW free slots for this annotator, the first to be taken first.

    Leaves out the comparison `besides`, which is being judged, and the slots `tried`.
    """
    statement, params = _WAITING, [now, project.pk, annotator_id, annotator_id]
    if besides:
        statement += " AND c.id <> %s"
        params.append(besides)
    if tried:
        statement += f" AND s.id NOT IN ({', '.join(['%s'] * len(tried))})"
        params.extend(tried)
    if order == NextComparison.RANDOM:
        found = _shuffled(statement, params)
    else:
        by = _FEWEST if order == NextComparison.FEWEST else _OLDEST
        found = sql.rows(statement + by, *params, WINDOW)
    return [Offer(row[0], row[1], row[2:]) for row in found]


def _shuffled(statement: str, params: list[Any]) -> list[tuple]:
    """From a random place in the shuffled order on, then from its beginning."""
    place = random.random()
    found = sql.rows(statement + _SHUFFLED.format(">="), *params, place, WINDOW)
    missing = WINDOW - len(found)
    if missing:
        found += sql.rows(statement + _SHUFFLED.format("<"), *params, place, missing)
    return found

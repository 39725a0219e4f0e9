"""Leases as they are shown: found by whose they are, with prompt and answers in one query.

Taking one is leasing.py's; the page around it is desk.py's.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from django.http import Http404
from django.utils.translation import gettext as _

from annotation import project_settings, sql
from annotation.models import Comparison, Completion, Lease, Project, Prompt
from annotation.stock import with_system

# What a page shows of a lease, without tokens and log-probs. The rest is fetched when
# somebody asks for it.
_LEASE = sql.Columns(Lease, "l")
_PROJECT = sql.Columns(
    Project, "p", "id", "slug", "name", "channel", "base", "settings"
)
_SHOWN = [
    _LEASE,
    sql.Columns(
        Comparison, "c", "id", "prompt", "a", "b", "policy", "purpose", "state"
    ),
    sql.Columns(Prompt, "q", "id", "project", "messages"),
    *(
        sql.Columns(
            Completion, side, "id", "prompt", "text", "html", "html_version", "sampling"
        )
        for side in ("f", "s")
    ),
]
_LEASES_SHOWN = f"""
SELECT {", ".join(columns.sql for columns in _SHOWN)}
FROM annotation_lease l
JOIN annotation_comparison c ON c.id = l.comparison_id
JOIN annotation_prompt q ON q.id = c.prompt_id
JOIN annotation_completion f ON f.id = l.first_id
JOIN annotation_completion s ON s.id = l.second_id
WHERE """
_OWN_LEASE = f"""
SELECT m.id, {_LEASE.sql}, {_PROJECT.sql}
FROM annotation_lease l
JOIN annotation_project p ON p.id = l.project_id
LEFT JOIN annotation_membership m ON m.project_id = p.id AND m.user_id = l.annotator_id
WHERE l.key = %s AND l.annotator_id = %s
"""


def new_lease(project: Project, key: uuid.UUID) -> Lease:
    """A lease that this request has made, with what a page shows of it."""
    lease = lease_where(project, "l.key = %s", key)
    assert lease is not None, "made just now"
    lease.is_new = True
    return lease


def lease_for(user, key: uuid.UUID | str) -> Lease:
    """The user's own lease, whatever its outcome; Http404 for anybody else's.

    It brings its project along; what a page shows is fetched where it is asked for.
    """
    try:
        key = key if isinstance(key, uuid.UUID) else uuid.UUID(key)
    except (ValueError, TypeError, AttributeError):
        raise Http404(_("There is no such lease.")) from None
    found = sql.rows(_OWN_LEASE, key, user.pk)
    may = found and user.is_active and (user.is_superuser or found[0][0] is not None)
    if not may:
        raise Http404(_("There is no such lease."))
    lease, project = _parts([_LEASE, _PROJECT], found[0][1:])
    lease.project = project
    return lease


def lease_where(project: Project, condition: str, *params: Any) -> Lease | None:
    """The project's lease of which that holds (SQL; the lease is `l`), to be shown."""
    found = sql.rows(_LEASES_SHOWN + condition, *params)
    if not found:
        return None
    lease, comparison, prompt, first, second = _parts(_SHOWN, found[0])
    comparison.project = prompt.project = lease.project = project
    comparison.prompt = first.prompt = second.prompt = prompt
    lease.comparison, lease.first, lease.second = comparison, first, second
    return lease


def _parts(columns: Sequence[sql.Columns], row: Sequence[Any]) -> list[Any]:
    """The models' rows that one row of a joined SELECT holds, one after another."""
    parts, place = [], 0
    for part in columns:
        parts.append(part.row(row[place : place + len(part)]))
        place += len(part)
    return parts


def prompt_shown(lease: Lease) -> list[dict]:
    """What the answers answer: with the system prompt they were sampled with."""
    if lease.comparison.purpose == Comparison.Purpose.GOLD:
        # Gold may be imported, or older than today's: it must look like the others.
        sampling = project_settings.of(lease.project).sampling
    else:
        sampling = lease.first.sampling
    system_prompt = sampling.get("system_prompt", "")
    return with_system(lease.comparison.prompt.messages, system_prompt)

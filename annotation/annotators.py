"""Each annotator's work in figures: how much, how fast, how alike the others'.

For managers, and for the person alone (`own_row`, `for_reader`): as of the last full hour,
as gold counts in some of them and not in others. Leaves out what judges a person:
gold and consistency are in the project's probes.
"""

from collections import defaultdict
from datetime import datetime
from typing import Any

from django.db.models import Count, F, IntegerField
from django.db.models.functions import Cast, Floor

from annotation import queries
from annotation.models import Membership, Project, Role
from annotation.shares import Share, share
from annotation.standing import standing

NOTHING = share(0, 0)
IDLE = {
    "judgments": 0,
    "skips": 0,
    "mean_seconds": None,
    "median_seconds": None,
    "last_at": None,
    "agreement": NOTHING,
    "first": NOTHING,
}
"""The row of somebody who has done nothing."""


def counts(project: Project, at: datetime | None = None) -> list[dict[str, Any]]:
    """queries.annotator_counts, each with `median_seconds`; one query more."""
    medians = median_seconds(project, at)
    return [
        row | {"median_seconds": medians.get(row["username"])}
        for row in queries.annotator_counts(project, at)
    ]


def median_seconds(project: Project, at: datetime | None = None) -> dict[str, float]:
    """{username: median seconds of the standing judgments}, to a tenth of a second.

    From counts by tenths: SQLite has no median, and millions of rows need no sorting.
    """
    tenths = (
        project.judgments.filter(standing(at))
        .order_by()
        .annotate(tenth=Cast(Floor(F("seconds") * 10), IntegerField()))
        .values_list("annotator__username", "tenth")
        .annotate(count=Count("pk"))
    )
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for username, tenth, count in tenths.iterator():
        found[username].append((tenth, count))
    return {username: _median(sorted(by)) / 10 for username, by in found.items()}


def _median(counted: list[tuple[int, int]]) -> float:
    """Of [(value, how often), …] in order; of an even number the mean of the middle two."""
    total = sum(count for _value, count in counted)
    middle = ((total - 1) // 2, total // 2)
    values, seen = [], 0
    for value, count in counted:
        values += [value for place in middle if seen <= place < seen + count]
        seen += count
    return sum(values) / 2


def rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the parts annotators, agreement and bias: the counts of each, with
    `agreement` (Share of the others' verdicts on the same comparisons that theirs was
    the same as) and `first` (Share of their verdicts that went to the side shown first).
    """
    alike: dict[str, Share] = (figures.get("agreement") or {}).get("people", {})
    swayed = {
        row["username"]: row["first"]
        for row in (figures.get("bias") or {}).get("annotators", [])
    }
    return [
        row
        | {
            "agreement": alike.get(row["username"], NOTHING),
            "first": swayed.get(row["username"], NOTHING),
        }
        for row in figures.get("annotators") or []
    ]


def own_row(told: dict[str, Any] | None, user) -> dict[str, Any]:
    """The user's row of the part told; all zeros where they had done nothing then."""
    mine = visible(rows(told or {}), None, user)
    return mine[0] if mine else IDLE | {"username": user.get_username()}


def for_reader(figures: dict[str, Any], role: str | None, user) -> dict[str, Any]:
    """The parts agreement and bias with what is about single people as this reader may
    see it: a manager all of it, anybody else their own, as of the part told."""
    parts = {name: figures[name] for name in ("agreement", "bias")}
    if role == Role.MANAGER:
        return parts

    def told(part: str, name: str) -> list[dict[str, Any]]:
        then = (figures["told"] or {}).get(part) or {}
        return visible(then.get(name, []), role, user)

    if parts["agreement"]:
        parts["agreement"] = parts["agreement"] | {"pairs": told("agreement", "pairs")}
    if parts["bias"]:
        of_all = [row for row in parts["bias"]["flags"] if not row["username"]]
        parts["bias"] = parts["bias"] | {
            "annotators": told("bias", "annotators"),
            "flags": of_all + told("bias", "flags"),
        }
    return parts


def visible(found: list[dict[str, Any]], role: str | None, user) -> list:
    """Of rows with `username` (or `annotators`), those the reader may see."""
    if role == Role.MANAGER:
        return found
    mine = user.get_username()
    return [
        row
        for row in found
        if row.get("username") == mine or mine in row.get("annotators", ())
    ]


def judged(figures: dict[str, Any]) -> dict[str, int] | None:
    """{username: standing judgments} of the part annotators; None: not counted yet."""
    counted = figures["annotators"]
    if counted is None:
        return None
    return {row["username"]: row["judgments"] for row in counted}


def members(project: Project, figures: dict[str, Any]) -> list[Membership]:
    """By name, each with `n_judgments` (None: not counted yet). One query."""
    known = judged(figures)
    rows = list(project.memberships.select_related("user").order_by("user__username"))
    for member in rows:
        name = member.user.username
        member.n_judgments = None if known is None else known.get(name, 0)
    return rows


def with_members(found: list[dict[str, Any]], project: Project) -> list[dict[str, Any]]:
    """The rows with each one's `role` in words, then annotators who have done nothing
    yet; who left the project keeps the row, without a role. One query."""
    members = {
        member.user.username: member
        for member in Membership.objects.filter(project=project).select_related("user")
    }
    known = {row["username"] for row in found}
    told = [
        row | {"role": members[row["username"]].get_role_display()}
        if row["username"] in members
        else row
        for row in found
    ]
    return told + [
        IDLE | {"username": username, "role": member.get_role_display()}
        for username, member in sorted(members.items())
        if username not in known and member.role == Role.ANNOTATOR
    ]

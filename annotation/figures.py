"""A project's figures: counted at the look while that is cheap, else kept with a stamp.

Up to LIVE judgments and pairs they are counted when a page asks. Beyond, a page shows
what a worker counted last ("as of 12:03") and asks for fresher ones; the task
`refresh_figures` counts them on the queue `default`, never in a request. So no page
reads all of a project's rows, however many there are, and every page and call that
names a figure names the same one.

A part is a name and a function of a project. Apps to the left of annotation register
theirs (`register`): training's part is about rounds, which annotation may not know.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import F, Q, QuerySet
from django.utils import timezone, translation

from annotation import annotators, overview, quality, queries, sways
from annotation.adjudicating import how_many
from annotation.agreement import Agreement
from annotation.models import PreferencePair, Project, ProjectFigures
from annotation.nudging import send
from annotation.shares import Share, share
from annotation.standing import last_full_hour

LIVE = 3000
"""Judgments, and pairs, up to which counting takes about as long as drawing the page."""

FRESH = timedelta(minutes=2)
"""Younger ones are not counted again."""

BUSY_SHARE = 0.1
"""Of a worker's time, at most, that counting one project's figures may take."""

LOST = timedelta(minutes=30)
"""A worker that counts for longer is taken for dead."""

Part = Callable[[Project], Any]


def _told(project: Project) -> dict[str, Any]:
    """{"at": the last full hour, and the parts annotators, agreement and bias as they
    were then}: what people who are no managers are told of themselves. Of a project whose
    figures are kept, counted once an hour."""
    at = last_full_hour()
    kept = ProjectFigures.objects.filter(project=project).first()
    told = unpacked(kept.values.get("told")) if kept else None
    if told and told["at"] == at:
        return told
    return {
        "at": at,
        "annotators": annotators.counts(project, at),
        "agreement": quality.agreement(project, at),
        "bias": sways.bias(project, at),
    }


_PARTS: dict[str, Part] = {
    "totals": overview.totals,
    "days": overview.days,
    "idle": overview.idle_annotators,
    "both_bad": overview.disliked_prompts,
    "funnel": queries.funnel,
    "annotators": annotators.counts,
    "agreement": quality.agreement,
    "bias": sways.bias,
    "told": _told,
}


def register(name: str, part: Part) -> None:
    """Add a part, or put another in the place of one; its values are dicts with text keys,
    lists, dates, Shares, Agreements and what JSON has. Text for people is marked, but
    told in English (see `of`)."""
    _PARTS[name] = part


class Figures(dict):
    """{part: its values}; `as_of` is None where they were counted for this look, and
    `is_pending` says that they have never been counted."""

    as_of: datetime | None = None
    is_pending = False


def of(project: Project, *names: str) -> Figures:
    """The named parts of the project's figures.

    Parts that were never counted (see `is_pending`) are None. Three queries where they
    are kept, two and the parts' own where they are counted now.
    """
    if is_small(project):
        return Figures({name: counted(project, name) for name in names})
    kept = ProjectFigures.objects.filter(project=project).first()
    figures = Figures(dict.fromkeys(names))
    if kept is None or kept.as_of is None:
        figures.is_pending = True
    else:
        figures.as_of = kept.as_of
        figures |= {name: unpacked(kept.values.get(name)) for name in names}
    if kept is None or _is_old(kept):
        ask(project)
    return figures


def rows_for(projects: QuerySet[Project], user: Any) -> list[Project]:
    """Projects with the `n_…` counts that _next.html names and the user's `role_here`.

    Small ones in one query. A big one has what a worker kept of it, which costs four
    more: there are few of them.
    """
    kept = {
        row.project_id: row
        for row in ProjectFigures.objects.filter(
            project__in=projects.order_by().values("pk"), as_of__isnull=False
        )
    }
    rows = list(overview.with_figures(projects.exclude(pk__in=kept), user))
    for project in projects.filter(pk__in=kept).annotate(
        role_here=overview.role_of(user)
    ):
        known = {n: unpacked(kept[project.pk].values.get(n)) for n in NAMED}
        put_counts(project, user, known)
        project.n_review = how_many(project)
        if _is_old(kept[project.pk]):
            ask(project)
        rows.append(project)
    return sorted(rows, key=lambda project: project.slug)


NAMED = ("totals", "rounds")
"""The parts that `put_counts` reads."""


def put_counts(project: Project, user: Any, known: Mapping[str, Any]) -> None:
    """Give the project what _next.html names; a count not known yet is None."""
    row: Any = project
    mine = overview.my_counts(project, user)
    row.n_mine, row.n_mine_today = mine["all"], mine["today"]
    row.n_waiting = overview.waiting_for(project, user)
    totals = known["totals"] or {}
    for name in (
        "prompts",
        "held_out",
        "open",
        "judgments",
        "sound",
        "due",
        "rejected",
    ):
        setattr(row, f"n_{name}", totals.get(name))
    rounds = known.get("rounds")
    row.n_new = rounds["next"]["pairs"] if rounds else None
    # Counted one after the other: a pair that passed in between is in both.
    if row.n_new is not None and row.n_sound is not None:
        row.n_sound = max(row.n_sound, row.n_new)


def is_small(project: Project) -> bool:
    """Whether counting at the look is cheap. Reads LIVE index entries at most."""
    return all(
        rows.order_by()[: LIVE + 1].count() <= LIVE
        for rows in (project.judgments, PreferencePair.objects.filter(project=project))
    )


def ask(project: Project) -> None:
    """Have them counted afresh; who asks while that is under way changes nothing."""
    from annotation.tasks import refresh_figures  # It imports this module.

    ProjectFigures.objects.bulk_create(
        [ProjectFigures(project=project)], ignore_conflicts=True
    )
    now = timezone.now()
    asked = ProjectFigures.objects.filter(
        Q(asked_at=None) | Q(as_of__gt=F("asked_at")) | Q(asked_at__lt=now - FRESH),
        Q(started_at=None) | Q(started_at__lt=now - LOST),
        project=project,
    ).update(asked_at=now)
    if asked:
        send(refresh_figures, project.pk, expires=60)


def refresh(project: Project) -> bool:
    """Count all parts and keep them; False where a worker counts this or another
    project: one at a time, so that the queue's other worker goes on checking pairs."""
    ProjectFigures.objects.bulk_create(
        [ProjectFigures(project=project)], ignore_conflicts=True
    )
    began, mine = timezone.now(), ProjectFigures.objects.filter(project=project)
    free = Q(started_at=None) | Q(started_at__lt=began - LOST)
    if ProjectFigures.objects.exclude(free).exists():
        return False
    if not mine.filter(free).update(started_at=began):
        return False
    clock = time.monotonic()
    try:
        values = {name: packed(_plain(project, part)) for name, part in _PARTS.items()}
    except BaseException:
        mine.filter(started_at=began).update(started_at=None)
        raise
    # One that was taken for dead and still comes does not overwrite what is younger.
    mine.filter(started_at=began).update(
        values=values,
        as_of=began,
        seconds=time.monotonic() - clock,
        started_at=None,
    )
    return True


def refresh_wanted() -> int:
    """Count what was asked for and got lost, and big projects' first; how many."""
    kept = {row.project_id: row for row in ProjectFigures.objects.defer("values")}
    done = 0
    for project in Project.objects.select_related("channel"):
        row = kept.get(project.pk)
        if row is not None and row.as_of is not None:
            is_wanted = row.asked_at is not None and row.asked_at > row.as_of
        else:
            is_wanted = not is_small(project)
        if is_wanted:
            done += refresh(project)
    return done


def _is_old(kept: ProjectFigures) -> bool:
    if kept.as_of is None:
        return True
    rest = timedelta(seconds=kept.seconds / BUSY_SHARE)
    return timezone.now() - kept.as_of > max(FRESH, rest)


def counted(project: Project, name: str) -> Any:
    """One part, of now, whatever is kept."""
    # Packed and unpacked, so that small and big projects' pages get the same shapes.
    return unpacked(packed(_plain(project, _PARTS[name])))


def _plain(project: Project, part: Part) -> Any:
    """Whoever counts has no reader: texts stay as they are marked, in English, and the
    page tells them in its reader's language."""
    with translation.override(None):
        return part(project)


def packed(value: Any) -> Any:
    """The same as JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): packed(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [packed(item) for item in value]
    if isinstance(value, Share):
        return {"~share": [value.count, value.of, value.worth]}
    if isinstance(value, Agreement):
        return {"~agreement": asdict(value)}
    if isinstance(value, datetime):
        return {"~time": value.isoformat()}
    if isinstance(value, date):
        return {"~date": value.isoformat()}
    return value


def unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"~share": [count, of, *worth]}:  # Kept ones of old have no worth.
            return share(count, of, *worth)
        case {"~agreement": fields}:
            return Agreement(**fields)
        case {"~time": text}:
            return datetime.fromisoformat(text)
        case {"~date": text}:
            return date.fromisoformat(text)
    return {name: unpacked(item) for name, item in value.items()}

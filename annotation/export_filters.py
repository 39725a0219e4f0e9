"""Which pairs, judgments and prompts an export takes, from a query's parameters.

Every name and value is checked against a list or parsed; nothing reaches the ORM as it
came. Rounds are training's: it hands in the ids of a round's pairs (`within`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.db.models import (
    Count,
    Exists,
    ExpressionWrapper,
    F,
    FloatField,
    OuterRef,
    QuerySet,
    Subquery,
    Value,
)
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation import export_rows, queries, texts
from annotation.errors import ExportRefused
from annotation.models import (
    Decision,
    Judgment,
    LabelledAnswer,
    PreferencePair,
    Project,
    Prompt,
    Role,
    RuleVerdict,
)
from annotation.validation import RULES

WHICH = {
    "sound": gettext_lazy("Sound pairs: accepted, and not held out"),
    "held_out": gettext_lazy("Accepted pairs held out to measure"),
    "accepted": gettext_lazy("All accepted pairs"),
    "rejected": gettext_lazy("Pairs rejected by a rule"),
    "unchecked": gettext_lazy("Pairs not checked yet"),
    "all": gettext_lazy("All pairs that stand"),
}
NAMES = ("which", "kind", "rule", "verdict", "agreement", "annotator", "since", "until")


@dataclass(frozen=True)
class Wanted:
    """What an export is narrowed to; the defaults take everything sound."""

    which: str = "sound"
    kind: str = ""
    rule: str = ""
    verdict: str = ""
    agreement: float | None = None
    """Least share of a comparison's judgments for the answer that won."""
    annotator: str = ""
    judge: int | None = None
    """The annotator's id; None also where a manager named somebody unknown here."""
    since: datetime | None = None
    until: datetime | None = None
    """The first instant that is no longer in."""

    @property
    def is_narrowed(self) -> bool:
        return self != Wanted()

    @property
    def is_of_pairs(self) -> bool:
        """Narrowed by what only pairs have: by more than dates."""
        return replace(self, since=None, until=None).is_narrowed


def wanted(
    params: Mapping[str, str],
    project: Project,
    *,
    user: Any = None,
    role: str | None = None,
) -> Wanted:
    """Read the parameters, as that reader may give them (nobody: by pseudonyms alone).
    Raises ExportRefused naming the one that is wrong."""
    given = {name: str(params.get(name) or "").strip() for name in NAMES}
    verdicts = RuleVerdict.Result.values
    _one_of(given, "which", WHICH)
    _one_of(given, "kind", PreferencePair.Kind.values)
    _one_of(given, "rule", RULES)
    _one_of(given, "verdict", verdicts)
    if wrong := texts.problem(given["annotator"]):
        raise ExportRefused("annotator", wrong)
    if given["rule"] and not given["verdict"]:
        given["verdict"] = RuleVerdict.Result.REJECT.value
    return Wanted(
        which=given["which"] or "sound",
        kind=given["kind"],
        rule=given["rule"],
        verdict=given["verdict"],
        agreement=_share(given["agreement"]),
        annotator=given["annotator"],
        judge=_judge(given["annotator"], project, user, role),
        since=_instant("since", given["since"]),
        until=_instant("until", given["until"], is_end=True),
    )


def judges(project: Project, user: Any, role: str | None) -> dict[str, int]:
    """{what the reader may ask `annotator` for: id} of whoever ever judged here:
    pseudonyms, then names; for who is no manager only their own, as rows asked for by
    another's name would tell whose pseudonym they bear."""
    names = queries.worked_here(project)
    hidden = {export_rows.pseudonym(project.pk, pk): pk for pk in names.values()}
    if role != Role.MANAGER:
        names = {name: pk for name, pk in names.items() if user and pk == user.pk}
    return hidden | names


def _judge(annotator: str, project: Project, user: Any, role: str | None) -> int | None:
    if not annotator:
        return None
    found = judges(project, user, role).get(annotator)
    is_own = user is not None and annotator == user.get_username()
    if found is None and role != Role.MANAGER and not is_own:
        raise ExportRefused(
            "annotator",
            _(
                "Give a pseudonym, as exports show it, or your own name; only a manager"
                " may ask by others’ names."
            ),
        )
    return found


def _one_of(given: dict[str, str], name: str, known: Any) -> None:
    if given[name] and given[name] not in known:
        raise ExportRefused(
            name, _("Unknown; known here: %(names)s.") % {"names": ", ".join(known)}
        )


def _share(text: str) -> float | None:
    if not text:
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ExportRefused("agreement", _("Give a share from 0 to 1, such as 0.8."))
    return share


def _instant(name: str, text: str, *, is_end: bool = False) -> datetime | None:
    """A day (its start; as an end, the day after) or an instant; local if it says none."""
    if not text:
        return None
    try:
        if day := parse_date(text):
            if is_end:
                day += timedelta(days=1)
            return _held(timezone.make_aware(datetime.combine(day, time.min)))
        if moment := parse_datetime(text):
            if timezone.is_naive(moment):
                moment = timezone.make_aware(moment)
            return _held(moment)
    except (ValueError, OverflowError):
        pass
    raise ExportRefused(name, _("Give a day as YYYY-MM-DD, such as 2026-11-21."))


def _held(moment: datetime) -> datetime:
    """As databases hold it. Raises OverflowError, for 0001-01-01 far east of here, say."""
    moment.astimezone(timezone.get_default_timezone())  # Pages show it there.
    return moment.astimezone(UTC)


def pairs(
    project: Project, asked: Wanted, within: QuerySet | None = None
) -> QuerySet[PreferencePair]:
    """The standing pairs asked for, of `within` (ids of pairs) where it is given."""
    if asked.which == "sound":
        found = queries.sound_pairs(project)
    elif asked.which == "held_out":
        found = queries.held_out_pairs(project)
    else:
        found = queries.standing_pairs(project)
        if asked.which != "all":
            found = found.filter(state=asked.which)
    if within is not None:
        found = found.filter(pk__in=within)
    if asked.kind:
        found = found.filter(kind=asked.kind)
    if asked.verdict:
        verdicts = RuleVerdict.objects.filter(pair=OuterRef("pk"), result=asked.verdict)
        if asked.rule:
            verdicts = verdicts.filter(rule=asked.rule)
        found = found.filter(Exists(verdicts))
    if asked.annotator:
        theirs = _judged(OuterRef("decision__comparison"))
        found = found.filter(Exists(theirs.filter(annotator=asked.judge)))
    if asked.agreement is not None:
        found = _agreed(found, asked.agreement)
    return _dated(found, asked)


def _judged(comparison: Any) -> QuerySet[Judgment]:
    return Judgment.objects.filter(comparison=comparison, undone_at=None)


def _agreed(found: QuerySet[PreferencePair], least: float) -> QuerySet[PreferencePair]:
    """Judged here, by people of whom at least this share picked what won."""

    def count(judgments: QuerySet[Judgment]) -> Subquery:
        counted = judgments.order_by().values("comparison").annotate(n=Count("*"))
        return Subquery(counted.values("n"))

    judged = _judged(OuterRef("decision__comparison"))
    needed = ExpressionWrapper(
        F("n_judged") * Value(least - 1e-9), output_field=FloatField()
    )
    return found.annotate(
        n_judged=count(judged),
        n_for=count(judged.filter(winner=OuterRef("decision__winner"))),
    ).filter(n_for__gte=needed)


def _dated(found: Any, asked: Wanted) -> Any:
    if asked.since:
        found = found.filter(created_at__gte=asked.since)
    if asked.until:
        found = found.filter(created_at__lt=asked.until)
    return found


def beside(
    project: Project, asked: Wanted
) -> tuple[QuerySet[Decision], QuerySet[LabelledAnswer]]:
    """What KTO's form has beside pairs (exporting.labelled_beside), by date."""
    found = queries.alike_decisions(project), queries.labelled_answers(project)
    return _dated(found[0], asked), _dated(found[1], asked)


def judgments(project: Project, asked: Wanted) -> QuerySet[Judgment]:
    """The standing ones, by annotator and date."""
    found = Judgment.objects.filter(project=project, undone_at=None)
    if asked.annotator:
        found = found.filter(annotator=asked.judge)
    return _dated(found, asked)


def prompts(project: Project, asked: Wanted) -> QuerySet[Prompt]:
    """Those that the policy is asked, by date; held out or not as `which` says."""
    found = Prompt.objects.filter(project=project, is_asked=True)
    if asked.which == "held_out":
        found = found.filter(is_held_out=True)
    return _dated(found, asked)

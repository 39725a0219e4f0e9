"""What is submitted with a judgment: checked, and hashed so that a repeat is known.

Nothing is stored here; that is judging.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.translation import gettext as _

from annotation import project_settings, texts
from annotation.errors import InvalidJudgment
from annotation.models import Lease, Verdict
from annotation.rendering import render_markdown

MAX_COMMENT = 10_000
MAX_EDITED = 100_000
MAX_REASONS = 20
MAX_REASON = 60


@dataclass(frozen=True)
class Body:
    verdict: str
    strength: int | None
    reasons: list[str]
    comment: str
    edited: str
    edited_html: str
    """Rendered before the transaction, which is to be short."""
    criteria: dict[str, int | None]
    """{criterion: the better completion's id}; null for a tie."""
    sha256: str
    """Of what was submitted, before anything was changed in it."""


def digest(verdict, strength, reasons, comment, edited, criteria) -> str:
    given = [verdict, strength, list(reasons or ()), comment, edited]
    # Only where there are some: bodies from before there were criteria keep their hash.
    return texts.sha256_of([*given, criteria] if criteria else given)


def checked(
    lease: Lease, verdict, strength, reasons, comment, edited, criteria
) -> Body:
    """Raises InvalidJudgment, which names the field and what it may be."""
    sha256 = digest(verdict, strength, reasons, comment, edited, criteria)
    if verdict not in Verdict.values:
        raise InvalidJudgment(
            "verdict",
            _("“verdict” must be one of %(known)s.")
            % {"known": ", ".join(Verdict.values)},
        )
    is_whole = isinstance(strength, int) and not isinstance(strength, bool)
    if strength is not None and (not is_whole or strength not in (1, 2, 3)):
        raise InvalidJudgment("strength", _("“strength” must be 1, 2 or 3."))
    _check_reasons(reasons)
    comment = _checked_text("comment", comment, MAX_COMMENT)
    # A browser's text area sends CR LF for the newline it was given as LF.
    edited = _checked_text("edited", edited, MAX_EDITED).replace("\r\n", "\n")
    if edited:
        if verdict not in (Verdict.FIRST, Verdict.SECOND):
            raise InvalidJudgment(
                "edited", _("Only the better answer can be edited; pick one first.")
            )
        if not edited.strip():
            raise InvalidJudgment("edited", _("The edited answer is empty."))
        winner, other = lease.first, lease.second
        if verdict == Verdict.SECOND:
            winner, other = other, winner
        if edited.strip() == winner.text.strip():
            raise InvalidJudgment(
                "edited", _("The edited answer is the same as the one it improves.")
            )
        if edited.strip() == other.text.strip():
            # Its pair would say the opposite of the verdict.
            raise InvalidJudgment(
                "edited",
                _("The edited answer is the same as the other one; pick that one."),
            )
    html = render_markdown(edited) if edited else ""
    won = _checked_criteria(lease, criteria) if criteria else {}
    listed = list(reasons or ())
    return Body(verdict, strength, listed, comment, edited, html, won, sha256)


def _checked_criteria(lease: Lease, criteria: object) -> dict[str, int | None]:
    known = project_settings.of(lease.project).criteria
    sides = {"first": lease.first_id, "second": lease.second_id, "tie": None}
    if not isinstance(criteria, Mapping):
        raise InvalidJudgment(
            "criteria", _("“criteria” must be an object of criteria and verdicts.")
        )
    for name, side in criteria.items():
        if name not in known:
            message = (
                _("This project has no such criterion. It has: %(known)s.")
                if known
                else _("This project has no criteria.")
            )
            raise InvalidJudgment("criteria", message % {"known": ", ".join(known)})
        if not isinstance(side, str) or side not in sides:
            raise InvalidJudgment(
                "criteria",
                _("“%(name)s” must be one of %(known)s.")
                % {"name": name, "known": ", ".join(sides)},
            )
    return {name: sides[criteria[name]] for name in known if name in criteria}


def _checked_text(field: str, value: object, longest: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidJudgment(
            field, _("“%(field)s” must be a text.") % {"field": field}
        )
    problem = texts.problem(value, longest)
    if problem:
        raise InvalidJudgment(
            field, _("“%(field)s” %(what)s.") % {"field": field, "what": problem}
        )
    return value


def _check_reasons(reasons: object) -> None:
    listed = reasons if isinstance(reasons, list | tuple) else None
    if reasons and (
        listed is None
        or len(listed) > MAX_REASONS
        or not all(
            isinstance(r, str) and not texts.problem(r, MAX_REASON) for r in listed
        )
    ):
        raise InvalidJudgment(
            "reasons",
            _("“reasons” must be a list of at most %(most)d short texts.")
            % {"most": MAX_REASONS},
        )

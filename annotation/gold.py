"""Gold items: made of what somebody vouches for, or imported; retired, never edited.

Every way in ends in `_add`, which keeps the same two answers from being gold twice.
What is done with them is in probing.py and trust.py.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

from django.db import IntegrityError, transaction
from django.db.models import Count, F, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import texts
from annotation.deciding import locked_all
from annotation.errors import BadExplanation, GoldRefused
from annotation.files import tables
from annotation.files.faults import BadRow, Messages
from annotation.files.prompt_rows import prompt_of
from annotation.importing import (
    MAX_PAIR_LINE,
    MAX_REPORTED,
    ImportReport,
    Rejected,
    lines_of,
)
from annotation.models import (
    Comparison,
    Completion,
    GoldItem,
    Judgment,
    PreferencePair,
    Project,
    Prompt,
)
from annotation.models.comparisons import unseen
from annotation.rendering import render_markdown
from annotation.stock import withdraw_open

MAX_EXPLANATION = 2000
MAX_ANSWER = 100_000
EXPECTED = GoldItem.Expected


def items(project: Project) -> QuerySet[GoldItem]:
    """Its gold, the newest first, with `n_judged`, standing judgments, and `n_right`."""
    stands = Q(
        probes__comparison__judgments__isnull=False,
        probes__comparison__judgments__undone_at=None,
    )
    right = Q(probes__comparison__judgments__winner=F("winner")) | Q(
        winner=None, probes__comparison__judgments__verdict=F("expected")
    )
    return (
        GoldItem.objects.filter(project=project)
        .select_related("prompt", "a", "b", "author", "retired_by")
        .defer(*unseen("a", "b"))
        .annotate(
            n_judged=Count("probes__comparison__judgments", filter=stands),
            n_right=Count("probes__comparison__judgments", filter=stands & right),
        )
        .order_by("-pk")
    )


def from_pair(pair: PreferencePair, author: Any, explanation: str = "") -> GoldItem:
    """Gold whose winner is the pair's chosen answer, which the author vouches for.

    Raises GoldRefused (409: it is gold already) and BadExplanation (422).
    """
    source = pair.decision.comparison if pair.decision else None
    return _add(
        pair.project,
        pair.prompt,
        (pair.chosen, pair.rejected),
        EXPECTED.WINNER,
        author,
        _checked(explanation),
        source,
    )


def from_judgment(judgment: Judgment, author: Any, explanation: str = "") -> GoldItem:
    """Gold as a reviewer judged it themselves; that may be a tie or "both bad", too.

    Raises GoldRefused (409: gold already, or undone) and BadExplanation (422).
    """
    comparison = judgment.comparison
    if judgment.undone_at is not None:
        raise GoldRefused(_("This judgment was undone; judge the pair again first."))
    answers, expected = (comparison.a, comparison.b), EXPECTED.WINNER
    if judgment.winner_id is None:
        expected = EXPECTED(judgment.verdict)
    elif judgment.winner_id == comparison.b_id:
        answers = (comparison.b, comparison.a)
    return _add(
        judgment.project,
        comparison.prompt,
        answers,
        expected,
        author,
        _checked(explanation),
        # Who met the pair there has met it.
        comparison.probe.repeats.comparison
        if comparison.purpose == Comparison.Purpose.REPEAT
        else comparison,
    )


def retire(gold: GoldItem, by: Any, *, was_wrong: bool = False) -> GoldItem:
    """Hand it out no more; who has it on their desk may finish. `was_wrong`: judgments on
    it count for nobody any longer.

    A second time changes nothing but this: what was retired may still be called wrong.
    """
    with transaction.atomic():
        GoldItem.objects.filter(pk=gold.pk, retired_at=None).update(
            retired_at=timezone.now(), retired_by=by, was_wrong=was_wrong
        )
        if was_wrong:
            GoldItem.objects.filter(pk=gold.pk, was_wrong=False).update(was_wrong=True)
        # One that an undo put off, or that is reserved ahead, would still come.
        probes = Comparison.objects.filter(probe__gold=gold.pk)
        unjudged = probes.filter(state=Comparison.State.OPEN)
        for comparison in locked_all(unjudged.values_list("pk", flat=True)).values():
            if comparison.state == Comparison.State.OPEN:
                withdraw_open(comparison)
    gold.refresh_from_db(fields=["retired_at", "retired_by", "was_wrong"])
    return gold


def import_gold(project: Project, author: Any, stream: BinaryIO) -> ImportReport:
    """JSONL, an item a line: `prompt` or `messages`, and `chosen` and `rejected`, or
    `answers` (two) with `expected` "tie" or "both_bad"; `explanation` if you like.

    A bad line never stops the rest. What is gold already counts as a duplicate. Raises
    ImportRefused where the file can't be read at all.
    """
    report = ImportReport()
    for line, row in _rows(stream):
        if isinstance(row, BadRow):
            if len(report.rejected) < MAX_REPORTED:
                report.rejected.append(Rejected(line, str(row)))
            else:
                report.rejected_more += 1
            continue
        try:
            _import(project, author, *row)
            report.accepted += 1
        except GoldRefused:
            report.duplicates += 1
    return report


_Row = tuple[Messages, list[str], GoldItem.Expected, str]


def _rows(stream: BinaryIO) -> Iterator[tuple[int, _Row | BadRow]]:
    for line, row in tables.text_rows(lines_of(stream, MAX_PAIR_LINE), "jsonl"):
        try:
            yield line, row if isinstance(row, BadRow) else _read(row)
        except BadRow as bad:
            yield line, bad


def _read(row: dict[str, Any]) -> _Row:
    messages = prompt_of(row)
    explanation = row.get("explanation") or ""
    problem = (
        _("must be a text")
        if not isinstance(explanation, str)
        else texts.problem(explanation, MAX_EXPLANATION)
    )
    if problem:
        raise BadRow(
            _("“%(field)s” %(what)s") % {"field": "explanation", "what": problem}
        )
    expected = row.get("expected") or EXPECTED.WINNER.value
    if expected not in EXPECTED.values:
        raise BadRow(
            _("“expected” must be one of %(known)s")
            % {"known": ", ".join(EXPECTED.values)}
        )
    if expected == EXPECTED.WINNER:
        answers = [_answer(row, name) for name in ("chosen", "rejected")]
    else:
        given = row.get("answers")
        if not isinstance(given, list) or len(given) != 2:
            raise BadRow(
                _("“answers” must be a list of two texts where “expected” is %(what)s")
                % {"what": expected}
            )
        answers = [
            _answer({f"answers[{place}]": answer}, f"answers[{place}]")
            for place, answer in enumerate(given)
        ]
    if answers[0] == answers[1]:
        raise BadRow(_("both answers are the same; a comparison needs two"))
    return messages, answers, EXPECTED(expected), explanation


def _answer(row: dict[str, Any], name: str) -> str:
    """A text, or messages that are one answer of the assistant (as TRL has them)."""
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise BadRow(
            _("“%(name)s” must be a text, or a list of one message of the assistant")
            % {"name": name}
        )
    problem = texts.problem(value, MAX_ANSWER)
    if not value.strip():
        problem = _("is empty; write the answer")
    if problem:
        raise BadRow(_("“%(field)s” %(what)s") % {"field": name, "what": problem})
    return value


def _import(
    project: Project,
    author: Any,
    messages: Messages,
    answers: list[str],
    expected: GoldItem.Expected,
    explanation: str,
) -> None:
    sha256 = _sha256(messages, answers)
    if GoldItem.objects.filter(
        project=project, sha256=sha256, retired_at=None
    ).exists():
        raise _gold_already()
    html = [render_markdown(answer) for answer in answers]
    with transaction.atomic():
        prompt, _is_new = Prompt.objects.get_or_create(
            project=project,
            sha256=texts.sha256_of(messages),
            defaults={"messages": messages, "is_asked": False, "is_gold": True},
        )
        made = [
            Completion.objects.create(
                prompt=prompt,
                source=Completion.Source.IMPORTED,
                text=answer,
                html=rendered,
            )
            for answer, rendered in zip(answers, html, strict=True)
        ]
        _add(project, prompt, (made[0], made[1]), expected, author, explanation)


def _add(
    project: Project,
    prompt: Prompt,
    answers: tuple[Completion, Completion],
    expected: GoldItem.Expected,
    author: Any,
    explanation: str,
    source: Comparison | None = None,
) -> GoldItem:
    """The better answer first, where there is one."""
    try:
        with transaction.atomic():
            return GoldItem.objects.create(
                project=project,
                prompt=prompt,
                a=answers[0],
                b=answers[1],
                expected=expected,
                winner=answers[0] if expected == EXPECTED.WINNER else None,
                explanation=explanation,
                source=source,
                sha256=_sha256(prompt.messages, [answer.text for answer in answers]),
                author=author,
            )
    except IntegrityError:
        raise _gold_already() from None


def _sha256(messages: Messages, answers: list[str]) -> str:
    return texts.sha256_of([messages, sorted(answers)])


def _gold_already() -> GoldRefused:
    return GoldRefused(_("These two answers are gold already."))


def _checked(explanation: str) -> str:
    problem = texts.problem(explanation, MAX_EXPLANATION)
    if problem:
        raise BadExplanation(
            "explanation", _("The explanation %(what)s.") % {"what": problem}
        )
    return explanation.replace("\r\n", "\n").strip()

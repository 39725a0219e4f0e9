"""What a reviewer does with a pair: let it through against a rule, or repair it by an edit.

Both leave a trace and neither touches a pair that a round has frozen: the pair's row is
locked first, as freezing does. Rules are asked again elsewhere (checking.py).
"""

from typing import Any

from django.db import transaction
from django.http import Http404
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import neighbours, project_settings, texts, validation
from annotation.checking import standing_word
from annotation.deciding import ask_for_checks
from annotation.errors import Frozen, InvalidRepair, NothingToDo
from annotation.files.pair_restoring import is_whole
from annotation.judgment_body import MAX_EDITED
from annotation.models import (
    Completion,
    LetThrough,
    PreferencePair,
    Project,
    RuleVerdict,
)
from annotation.models.comparisons import unseen
from annotation.rendering import render_markdown

MAX_NOTE = 500
_ANSWERS = ("chosen", "rejected", "chosen__edited_from", "rejected__edited_from")

State = PreferencePair.State


def pair_of(project: Project, pk: int) -> PreferencePair:
    """A pair with all that tells its story but verdicts. Raises Http404."""
    found = (
        PreferencePair.objects.filter(project=project, pk=pk)
        .select_related(
            *("prompt", "project", "repairer", "near_pair"),
            *("chosen__edited_from", "rejected__edited_from"),
            "repaired_by_pair__repairer",
        )
        .defer(*unseen(*_ANSWERS))
        .first()
    )
    if found is None:
        raise Http404(_("There is no such pair."))
    return found


@transaction.atomic
def let_through(pair: PreferencePair, by, note: str) -> LetThrough:
    """Have the pair train though rules object; those it has now, not later ones.

    What was let through before stays so: the new word takes its place. Raises
    InvalidRepair (no note), NothingToDo (no rule objects) and Frozen.
    """
    note = _checked_note(note)
    if not note:
        raise InvalidRepair("note", _("Say why this pair is good all the same."))
    pair = _locked(pair)
    if pair.state == State.UNCHECKED or pair.is_due:
        raise NothingToDo(_("The pair waits for its check; look again in a moment."))
    objections = _objections(pair)
    if not objections:
        raise NothingToDo(_("No rule keeps this pair from training."))
    before = standing_word(pair)
    seen = dict(before.seen) if before else {}
    rules = list(before.rules) if before else []
    for verdict in objections:
        seen[verdict.rule] = [verdict.result, verdict.reason]
        if verdict.rule not in rules:
            rules.append(verdict.rule)
    _end(pair, by)
    word = LetThrough.objects.create(
        pair=pair, by=by, note=note, rules=rules, seen=seen
    )
    _apply(pair, word)
    return word


@transaction.atomic
def take_back(pair: PreferencePair, by) -> None:
    """The rules count again. Raises Frozen, and NothingToDo where nothing was let
    through."""
    pair = _locked(pair)
    if not _end(pair, by):
        raise NothingToDo(_("Nobody has let this pair through."))
    _apply(pair, None)


def _end(pair: PreferencePair, by) -> int:
    return LetThrough.objects.filter(pair=pair, taken_back_at=None).update(
        taken_back_by=by, taken_back_at=timezone.now()
    )


def _objections(pair: PreferencePair) -> list[RuleVerdict]:
    """The stored verdicts that keep the pair from training, in the rules' order."""
    accept_unchecked = project_settings.of(pair.project).accept_unchecked
    stored: list[RuleVerdict] = list(pair.verdicts.order_by("id"))
    let = [verdict.rule for verdict in stored if verdict.is_let_through]
    return validation.blocking(stored, accept_unchecked, let)


def _apply(pair: PreferencePair, word: LetThrough | None) -> None:
    """Mark the verdicts that this word lets through, and no others; the state with it."""
    stored = RuleVerdict.objects.filter(pair=pair)
    rules = validation.still_let_through(stored, word.rules, word.seen) if word else []
    stored.filter(is_let_through=True).update(is_let_through=False)
    stored.filter(rule__in=rules).exclude(result="pass").update(is_let_through=True)
    if pair.state != State.UNCHECKED:
        pair.state = State.REJECTED if _objections(pair) else State.ACCEPTED
        pair.save(update_fields=["state"])
        if not neighbours.asks_for_near(project_settings.of(pair.project)):
            return
        if pair.state == State.REJECTED:
            is_to_check = neighbours.reopen_kept_away(pair) > 0
        elif neighbours.is_near_still_so(pair):
            neighbours.stand(pair)
            is_to_check = neighbours.reopen_later(pair) > 0
        else:
            pair.state, is_to_check = State.UNCHECKED, True
            pair.save(update_fields=["state"])
        if is_to_check:
            transaction.on_commit(ask_for_checks, robust=True)


def repair(
    pair: PreferencePair, by, *, chosen: str, rejected: str, note: str = ""
) -> PreferencePair:
    """A pair of the same kind with the texts as edited, which takes this one's place.

    Raises InvalidRepair (naming the field), Frozen, and NothingToDo where the pair was
    superseded meanwhile.
    """
    note = _checked_note(note)
    edited = {
        "chosen": _checked_text("chosen", chosen, pair.chosen),
        "rejected": _checked_text("rejected", rejected, pair.rejected),
    }
    if not any(edited.values()):
        raise InvalidRepair("chosen", _("Neither answer was changed."))
    html = {name: render_markdown(text) for name, text in edited.items() if text}
    with transaction.atomic():
        old = _locked(pair)
        sides = {
            name: Completion.objects.create(
                prompt_id=old.prompt_id,
                source=Completion.Source.EDITED,
                text=text,
                html=html[name],
                edited_from=getattr(old, name),
                author=by,
            )
            if text
            else getattr(old, name)
            for name, text in edited.items()
        }
        old.superseded_at = timezone.now()
        old.save(update_fields=["superseded_at"])
        made = PreferencePair.objects.create(
            project_id=old.project_id,
            prompt_id=old.prompt_id,
            decision_id=old.decision_id,
            kind=old.kind,
            weight=old.weight,
            extra=_still_true(old.extra),
            place=old.place or old.pk,
            repaired_from=old,
            repairer=by,
            repair_note=note,
            **sides,
        )
        neighbours.kept_away(old).update(near_pair=made)
        neighbours.reopen_after(old)
        transaction.on_commit(ask_for_checks, robust=True)
    return made


def _still_true(extra: dict[str, Any]) -> dict[str, Any]:
    """What an imported row carried besides; not the row itself, which holds the text
    that was repaired."""
    return {} if "kept" in extra and is_whole(extra["kept"]) else extra


def _locked(pair: PreferencePair) -> PreferencePair:
    """The pair's row as it is now, locked; raises Frozen and NothingToDo."""
    neighbours.lock_around(PreferencePair.objects.filter(pk=pair.pk))
    row = (
        PreferencePair.objects.select_for_update(no_key=True, of=("self",))
        .select_related("project", "chosen", "rejected")
        .get(pk=pair.pk)
    )
    if row.frozen_at is not None:
        raise Frozen(_("A training round has taken this pair, so it can't be changed."))
    if row.superseded_at is not None:
        raise NothingToDo(
            _("This pair was replaced meanwhile: judged again, or repaired.")
        )
    return row


def _checked_note(note: str) -> str:
    problem = texts.problem(note, MAX_NOTE)
    if problem:
        raise InvalidRepair("note", _("The note %(what)s.") % {"what": problem})
    return note.strip()


def _checked_text(field: str, text: str, old: Completion) -> str:
    """The text if it was changed, else empty."""
    # A browser's text area sends CR LF for the newline it was given as LF.
    text = text.replace("\r\n", "\n")
    if text.strip() == old.text.replace("\r\n", "\n").strip():
        return ""
    if old.messages is not None and len(old.messages) > 1:
        raise InvalidRepair(
            field,
            _("This answer is made of several messages; import it anew instead."),
        )
    if not text.strip():
        raise InvalidRepair(field, _("An answer must not be empty."))
    problem = texts.problem(text, MAX_EDITED)
    if problem:
        raise InvalidRepair(field, _("The answer %(what)s.") % {"what": problem})
    return text

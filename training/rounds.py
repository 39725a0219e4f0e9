"""Starting, cancelling and resuming a round: what a manager asks for.

The row, its frozen pairs and its files are made together; a message to Celery only
makes it start sooner. Running it is in running.py. What is noted is noted in English,
whoever asks; pages tell it in the reader's language (annotation/retelling.py).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Max
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from annotation import project_settings
from annotation.errors import PairsChanged
from annotation.freezing import freeze_pairs
from annotation.models import Project
from annotation.nudging import send
from annotation.queries import due_pairs, held_out_pairs
from inference.models import Policy
from training import recipes, runfolder
from training.errors import RoundRefused, StaleRound
from training.figures import funnel
from training.models import RoundPair, TrainingRound
from training.queries import active_round
from training.rows import pair_rows
from training.states import move, note

State = TrainingRound.State

FEWEST_PAIRS = 2
"""Below this there is nothing to learn from; the page warns well above it."""


def start_round(
    project: Project,
    by: Any,
    *,
    preset: str | None = None,
    start: str | Policy | None = None,
    reference: str | None = None,
    data: str | None = None,
    config: dict[str, Any] | None = None,
) -> TrainingRound:
    """Freeze the pairs of a new round and queue it.

    What is not given comes from the project's settings and the preset, see
    recipes.resolve. Raises RoundRefused: 422 with the funnel where there are too few
    pairs or some are being checked again, 422 for a wrong choice or config, 409 while
    another round runs or where the files can't be written.
    """
    recipe = recipes.resolve(
        project,
        preset=preset,
        start=start,
        reference=reference,
        data=data,
        config=config,
    )
    _refuse_second(project)
    if being_checked := due_pairs(project).count():
        raise RoundRefused(_being_checked(being_checked), 422, funnel(project))
    chosen = recipes.choose_pairs(project, recipe)
    if len(chosen) < FEWEST_PAIRS:
        raise RoundRefused(_too_few(len(chosen), recipe.data), 422, funnel(project))
    frozen = _write_files(project, recipe, [pk for pk, _replay in chosen])
    try:
        with transaction.atomic():
            training_round = _create(project, by, recipe, chosen, frozen)
    except OSError as error:
        raise _not_written(error) from error
    except PairsChanged:
        raise RoundRefused(
            _("A pair was changed while the round was being made; start it again."), 409
        ) from None
    except IntegrityError:
        # Another start came between: the partial unique index let only one pass.
        _refuse_second(project)
        raise _came_between() from None
    finally:
        runfolder.discard(frozen.folder)  # It has the round's name by now, or none.
    return training_round


@dataclass(frozen=True)
class _Frozen:
    """Both files of a round that is being made."""

    folder: Path
    sha256: str
    held_out: int


def _write_files(project: Project, recipe: recipes.Recipe, ids: list[int]) -> _Frozen:
    """Before the round's transaction; what of it changes until then PairsChanged tells."""
    held_out = list(held_out_pairs(project).order_by("pk").values_list("pk", flat=True))
    system_prompt = project_settings.of(project).sampling.get("system_prompt", "")
    try:
        folder, digest = runfolder.write_frozen(
            pair_rows(ids, recipe.start, system_prompt),
            pair_rows(held_out, recipe.start, system_prompt),
        )
    except OSError as error:
        raise _not_written(error) from error
    return _Frozen(folder, digest, len(held_out))


def _not_written(error: OSError) -> RoundRefused:
    return RoundRefused(
        _("The files of the round could not be written (%(why)s). Nothing was started.")
        % {"why": error.strerror or error},
        409,
    )


def _came_between() -> RoundRefused:
    return RoundRefused(
        _("Another round was started at the same moment; look, then decide."), 409
    )


def _refuse_second(project: Project) -> None:
    if running := active_round(project):
        raise RoundRefused(
            _(
                "Round %(number)d of this project is %(state)s. One round at a time"
                " trains per project: wait for it, or cancel it."
            )
            % {"number": running.number, "state": running.get_state_display()},
            409,
        )


def _being_checked(count: int) -> str:
    return ngettext(
        "%(count)d pair is being checked again, as the rules were changed. Start the"
        " round when that is done.",
        "%(count)d pairs are being checked again, as the rules were changed. Start the"
        " round when that is done.",
        count,
    ) % {"count": count}


def _too_few(count: int, data: str) -> str:
    if data == TrainingRound.Data.ALL:
        message = _(
            "A round needs at least %(least)d sound pairs; there are %(count)d."
        )
    else:
        message = _(
            "A round needs at least %(least)d new sound pairs; there are %(count)d."
        )
    return (
        message % {"count": count, "least": FEWEST_PAIRS}
        + " "
        + _("Judge more comparisons; the funnel says where pairs are lost.")
    )


def _create(
    project: Project,
    by: Any,
    recipe: recipes.Recipe,
    chosen: list[tuple[int, bool]],
    frozen: _Frozen,
) -> TrainingRound:
    last = TrainingRound.objects.filter(project=project).aggregate(Max("number"))
    training_round = TrainingRound.objects.create(
        project=project,
        number=(last["number__max"] or 0) + 1,
        preset=recipe.preset,
        start=recipe.start,
        reference=recipe.reference,
        data=recipe.data,
        config=recipe.config,
        created_by=by if by is not None and by.pk else None,
        nudged_at=timezone.now(),
        pairs_sha256=frozen.sha256,
    )
    _keep_pairs(training_round, chosen)
    freeze_pairs(project, training_round.round_pairs.values("pair"))
    replayed = sum(is_replay for _pk, is_replay in chosen)
    note(
        training_round,
        gettext_noop(
            "%(pairs)d pairs frozen, %(replayed)d of them replayed; %(held_out)d held out"
        )
        % {
            "pairs": len(chosen),
            "replayed": replayed,
            "held_out": frozen.held_out,
        },
    )
    runfolder.give_name(frozen.folder, training_round)
    nudge_on_commit(training_round)
    return training_round


def _keep_pairs(training_round: TrainingRound, chosen: list[tuple[int, bool]]) -> None:
    """Their rows. Making them by the ORM takes six times as long, while which all other
    writers of SQLite wait."""
    columns = ("training_round", "pair", "is_replay")
    names = [RoundPair._meta.get_field(name).column for name in columns]
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {RoundPair._meta.db_table} ({', '.join(names)})"
            " VALUES (%s, %s, %s)",
            [(training_round.pk, pk, is_replay) for pk, is_replay in chosen],
        )


def nudge_on_commit(training_round: TrainingRound) -> None:
    """Tell a GPU worker once this transaction stands; a lost message does no harm."""
    transaction.on_commit(partial(nudge, training_round.pk), robust=True)


def nudge(round_id: int) -> None:
    """Tell a GPU worker that a round waits; reconcile does it again if this is lost.

    Behind a long round these would gather and all be done after it, so each expires; not
    before the next is there, or a worker that is free would find none for a while.
    """
    # Imported here: tasks.py imports what runs rounds.
    from training.tasks import train_round

    send(train_round, round_id, expires=2 * settings.ROUND_NUDGE_AFTER)


def cancel_round(training_round: TrainingRound, by: Any = None) -> TrainingRound:
    """Cancel a round: at once while it waits, else as soon as its trainer has stopped.

    Repeating it changes nothing. Raises RoundRefused (409) once it publishes or is
    finished.
    """
    who = gettext_noop("cancelled by %(user)s") % {"user": by} if by else "cancelled"
    while True:
        fresh = TrainingRound.objects.get(pk=training_round.pk)
        if fresh.state == State.CANCELLED:
            return fresh
        if fresh.state == State.QUEUED:
            try:
                return move(
                    fresh,
                    State.CANCELLED,
                    at_epoch=fresh.epoch,
                    detail=who,
                    sources=[State.QUEUED],
                )
            except StaleRound:
                continue
        if fresh.state not in (State.PREPARING, State.TRAINING):
            raise RoundRefused(
                _("The round is %(state)s and can no longer be cancelled.")
                % {"state": fresh.get_state_display()},
                409,
            )
        if fresh.cancel_requested:
            return fresh
        updated = TrainingRound.objects.filter(
            pk=fresh.pk,
            state__in=[State.PREPARING, State.TRAINING],
            cancel_requested=False,
        ).update(cancel_requested=True)
        if updated:
            fresh.refresh_from_db()
            note(fresh, who)
            return fresh


def resume_round(training_round: TrainingRound, by: Any = None) -> TrainingRound:
    """Queue a failed or cancelled round again; it goes on from its last checkpoint.

    Repeating it changes nothing. Raises RoundRefused (409) while another round of
    the project runs, or where there is nothing to resume.
    """
    fresh = TrainingRound.objects.get(pk=training_round.pk)
    if fresh.is_active:
        return fresh
    if fresh.state == State.SUCCEEDED:
        raise RoundRefused(_("The round has succeeded: there is nothing to resume."))
    who = gettext_noop("resumed")
    if by:
        who = gettext_noop("resumed by %(user)s") % {"user": by}
    try:
        with transaction.atomic():
            fresh = move(
                fresh,
                State.QUEUED,
                at_epoch=fresh.epoch,
                detail=who,
                sources=[State.FAILED, State.CANCELLED],
                # Or a supervisor that slept through its round's end would end this too.
                epoch=F("epoch") + 1,
                error="",
                cancel_requested=False,
                attempts=0,
                finished_at=None,
                nudged_at=timezone.now(),
            )
            nudge_on_commit(fresh)
    except IntegrityError:
        _refuse_second(fresh.project)
        raise _came_between() from None
    except StaleRound:
        return TrainingRound.objects.get(pk=training_round.pk)
    return fresh

"""Freezing: from the moment a round takes a pair, it and its decision never change."""

from collections.abc import Iterable
from itertools import islice

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import PairsChanged
from annotation.models import PreferencePair, Project

# SQLite's oldest limit on values in one statement is 999.
CHUNK = 500


def freeze_pairs(project: Project, pairs: Iterable[PreferencePair | int]) -> None:
    """Freeze all of these pairs (rows or ids) or none.

    Raises PairsChanged if one was superseded, rejected, waits to be checked again or is
    of another project. A
    pair that an earlier round froze stays as it is.
    """
    ids = iter(sorted({getattr(pair, "pk", pair) for pair in pairs}))
    now = timezone.now()
    with transaction.atomic():
        # Before any pair, as who changes what hangs on one (neighbours.take_turn): a pair
        # let through locks those of its prompt and then others, in no order with ours.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        while chunk := list(islice(ids, CHUNK)):
            _freeze(project, chunk, now)


def _freeze(project: Project, ids: list[int], now) -> None:
    sound = PreferencePair.objects.filter(
        project=project,
        pk__in=ids,
        state=PreferencePair.State.ACCEPTED,
        is_due=False,
        superseded_at=None,
    )
    # Locked in one order, as `deciding.supersede` does: an undo waits for us or we
    # for it, and the UPDATE then sees what came of it.
    list(sound.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    sound.filter(frozen_at=None).update(frozen_at=now)
    frozen = sound.filter(frozen_at__isnull=False).count()
    if frozen != len(ids):
        raise PairsChanged(
            _(
                "%(count)d pairs changed while the round was being prepared. Start again."
            )
            % {"count": len(ids) - frozen}
        )

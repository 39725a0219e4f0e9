"""Freezing: from the moment a round takes a pair, it and its decision never change."""

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import PairsChanged
from annotation.models import PreferencePair, Project


@transaction.atomic
def freeze_pairs(project: Project, pairs: QuerySet) -> None:
    """Freeze all of these pairs (a query for rows or ids, each once) or none.

    They stay in the database: five statements, however many pairs. Raises PairsChanged
    if one was superseded, rejected, waits to be checked again or is of another project.
    A pair that an earlier round froze stays as it is.
    """
    # Before any pair, as who changes what hangs on one (neighbours.take_turn): a pair
    # let through locks those of its prompt and then others, in no order with ours.
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    sound = PreferencePair.objects.filter(
        project=project,
        pk__in=pairs,
        state=PreferencePair.State.ACCEPTED,
        is_due=False,
        superseded_at=None,
    )
    # Locked in one order, as `deciding.supersede` does: an undo waits for us or we
    # for it, and the UPDATE then sees what came of it.
    list(sound.select_for_update(no_key=True).order_by("pk").values_list("pk"))
    sound.filter(frozen_at=None).update(frozen_at=timezone.now())
    count, frozen = pairs.count(), sound.filter(frozen_at__isnull=False).count()
    if frozen != count:
        raise PairsChanged(
            _(
                "%(count)d pairs changed while the round was being prepared. Start again."
            )
            % {"count": count - frozen}
        )

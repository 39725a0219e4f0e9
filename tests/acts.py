"""Steps that the services only take within a larger act, alone for tests.

Unlike factories.py this goes through the services under test.
"""

from django.db import transaction

from annotation import freezing
from annotation.deciding import decide_locked, locked
from annotation.models import PreferencePair


@transaction.atomic
def decide(comparison):
    """The comparison's standing decision by its judgments; None while a slot waits."""
    return decide_locked(locked(comparison.pk))


def freeze(project, *pairs):
    """As a round of the project freezes its pairs."""
    rows = PreferencePair.objects.filter(pk__in=[pair.pk for pair in pairs])
    freezing.freeze_pairs(project, rows)

"""The test rows themselves hold the database's constraints."""

import pytest

from annotation.models import PreferencePair
from tests.factories import make_lease, make_pair, make_policy, make_project


@pytest.mark.both_databases
@pytest.mark.django_db
def test_every_factory_makes_a_whole_that_the_constraints_accept():
    pair = make_pair()
    make_policy(project=pair.project)
    lease = make_lease(project=make_project())

    assert pair.decision.winner == pair.chosen
    assert pair.state == PreferencePair.State.ACCEPTED
    assert lease.slot.state == "leased"

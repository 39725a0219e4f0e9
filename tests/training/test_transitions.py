"""States: from where each may be entered, and that a stale epoch moves nothing."""

from datetime import timedelta

import pytest
from django.utils import timezone

from tests.training.conftest import set_row
from training import attempts, states
from training.errors import RoundRefused, StaleRound
from training.models import RoundEvent, TrainingRound
from training.reconcile import reconcile
from training.rounds import cancel_round, resume_round, start_round
from training.running import run_round

pytestmark = pytest.mark.django_db


@pytest.mark.both_databases
@pytest.mark.parametrize("to", [s for s in TrainingRound.State.values if s != "queued"])
def test_a_stale_epoch_moves_nothing_and_records_nothing(queued, to):
    events = RoundEvent.objects.count()
    with pytest.raises(StaleRound):
        states.move(queued, to, at_epoch=queued.epoch + 1)
    queued.refresh_from_db()
    assert queued.state == "queued" and RoundEvent.objects.count() == events


@pytest.mark.parametrize(
    ("state", "to"),
    [
        ("queued", "training"),
        ("queued", "succeeded"),
        ("preparing", "publishing"),
        ("training", "succeeded"),
        ("publishing", "cancelled"),
        ("failed", "training"),
        ("cancelled", "preparing"),
    ],
)
def test_a_state_is_entered_only_from_where_it_may_be(queued, state, to):
    set_row(queued, state=state)
    with pytest.raises(StaleRound):
        states.move(queued, to, at_epoch=queued.epoch)


@pytest.mark.both_databases
def test_of_two_claims_one_gets_the_round(queued):
    assert attempts.claim(queued.pk).epoch == 1
    assert attempts.claim(queued.pk) is None


def test_a_waiting_round_is_cancelled_at_once_and_again_changes_nothing(
    queued, manager
):
    assert cancel_round(queued, manager).state == "cancelled"
    events = RoundEvent.objects.count()
    assert cancel_round(queued, manager).state == "cancelled"
    assert RoundEvent.objects.count() == events
    assert attempts.claim(queued.pk) is None


@pytest.mark.parametrize("state", ["publishing", "failed"])
def test_a_round_past_training_cannot_be_cancelled(queued, manager, state):
    set_row(queued, state=state)
    with pytest.raises(RoundRefused) as refusal:
        cancel_round(queued, manager)
    assert refusal.value.status == 409


@pytest.mark.both_databases
def test_resume_is_refused_while_another_round_runs(queued, manager):
    cancel_round(queued, manager)
    start_round(queued.project, manager)
    with pytest.raises(RoundRefused) as refusal:
        resume_round(queued, manager)
    assert refusal.value.status == 409 and "Round 2" in refusal.value.message
    queued.refresh_from_db()
    assert queued.state == "cancelled"


@pytest.mark.django_db(transaction=True)
def test_resume_twice_queues_once(queued, manager, nudges):
    cancel_round(queued, manager)
    del nudges[:]
    resume_round(queued, manager)
    assert resume_round(queued, manager).state == "queued"
    assert nudges == [queued.pk]
    assert list(queued.events.values_list("state", flat=True)) == [
        "queued",
        "cancelled",
        "queued",
    ]


@pytest.mark.both_databases
@pytest.mark.parametrize("end", [attempts.failed, attempts.cancelled])
def test_a_supervisor_that_slept_through_a_cancel_cannot_end_the_resumed_round(
    queued, manager, settings, end
):
    asleep = attempts.claim(queued.pk)
    cancel_round(queued, manager)
    beat = timezone.now() - timedelta(seconds=settings.ROUND_HEARTBEAT_LIMIT + 1)
    set_row(queued, heartbeat_at=beat)
    assert reconcile()["requeued"] == 1
    assert resume_round(queued, manager).state == "queued"
    with pytest.raises(StaleRound):
        end(asleep, "it wakes up and thinks the round is its own")
    queued.refresh_from_db()
    assert queued.state == "queued"


def test_a_succeeded_round_has_nothing_to_resume(queued, manager):
    run_round(queued.pk)
    with pytest.raises(RoundRefused):
        resume_round(queued, manager)

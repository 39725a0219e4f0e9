"""The invariants attacked past the services: raw updates and bulk writes must fail."""

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from annotation.models import (
    Comparison,
    Completion,
    Decision,
    Judgment,
    Lease,
    Membership,
    PreferencePair,
    Prompt,
    RuleVerdict,
    Slot,
    StockReservation,
)
from tests.factories import (
    make_comparison,
    make_judgment,
    make_lease,
    make_pair,
    make_prompt,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

NOW = timezone.now()


def refused(write, *args, **kwargs):
    with pytest.raises(IntegrityError), transaction.atomic():
        write(*args, **kwargs)


def copy_of(row, **changes):
    """The same row without its primary key, changed."""
    values = {
        field.attname: getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if not field.primary_key
    }
    return type(row)(**{**values, **changes})


def test_only_a_skipped_lease_has_a_flag_and_only_a_known_one():
    lease = make_lease()
    leases = Lease.objects.filter(pk=lease.pk)
    refused(leases.update, flag="unsafe")
    refused(leases.update, flag="boring", outcome="skipped")
    leases.update(flag="unsafe", outcome="skipped")


def test_one_standing_judgment_for_an_annotator_and_a_comparison():
    judgment = make_judgment(comparison=make_comparison(quota=2))
    lease = make_lease(comparison=judgment.comparison)
    again = copy_of(judgment, lease_id=lease.pk, slot_id=lease.slot.pk)
    refused(Judgment.objects.bulk_create, [again])
    refused(
        Judgment.objects.bulk_create,
        [copy_of(judgment, annotator_id=lease.annotator_id, slot_id=lease.slot.pk)],
    )  # one judgment a lease
    again.undone_at = NOW
    Judgment.objects.bulk_create([again])


def test_one_standing_judgment_in_a_slot():
    judgment = make_judgment(comparison=make_comparison(quota=2))
    lease = make_lease(comparison=judgment.comparison)
    refused(
        Judgment.objects.bulk_create,
        [copy_of(judgment, annotator_id=lease.annotator_id, lease_id=lease.pk)],
    )


def test_one_active_lease_for_an_annotator_and_a_project():
    lease = make_lease(comparison=make_comparison(quota=2))
    refused(Lease.objects.bulk_create, [copy_of(lease)])
    Lease.objects.bulk_create([copy_of(lease, outcome="expired")])


@pytest.mark.parametrize(
    "broken",
    [
        {"state": "open"},  # with a lease
        {"state": "judged"},  # with an expiry
        {"expires_at": None},
        {"lease": None},
        {"state": "withdrawn"},
        {"state": "lost", "lease": None, "expires_at": None},
    ],
)
def test_a_slots_state_lease_and_expiry_belong_together(broken):
    slot = make_lease().slot
    refused(Slot.objects.filter(pk=slot.pk).update, **broken)


def test_a_lease_fills_one_slot_and_a_number_is_there_once():
    comparison = make_comparison(quota=2)
    lease = make_lease(comparison=comparison)
    free = comparison.slots.get(state="open")
    refused(
        Slot.objects.filter(pk=free.pk).update,
        state="leased",
        lease=lease,
        expires_at=NOW,
    )
    refused(Slot.objects.bulk_create, [copy_of(free)])


@pytest.mark.parametrize(
    "broken",
    [
        {"verdict": "tie"},
        {"verdict": "both_bad"},
        {"winner": None},
        {"verdict": "left"},
        {"strength": 0},
        {"strength": 4},
    ],
)
def test_a_judgments_verdict_names_its_winner(broken):
    judgment = make_judgment()
    refused(Judgment.objects.filter(pk=judgment.pk).update, **broken)


def test_one_standing_decision_that_names_its_winner():
    decision = make_pair().decision
    refused(Decision.objects.bulk_create, [copy_of(decision)])
    refused(Decision.objects.filter(pk=decision.pk).update, winner=None)
    refused(Decision.objects.filter(pk=decision.pk).update, outcome="tie")
    Decision.objects.bulk_create([copy_of(decision, superseded_at=NOW)])


@pytest.mark.parametrize(
    "broken",
    [
        {"superseded_at": NOW},
        {"state": "rejected"},
        {"state": "unchecked"},
        {"weight": 0},
        {"state": "perfect"},
    ],
)
def test_a_frozen_pair_stands_accepted(broken):
    pair = make_pair(frozen_at=NOW)
    refused(PreferencePair.objects.filter(pk=pair.pk).update, **broken)


def test_a_pair_is_of_two_answers_and_once_for_a_decision_and_kind():
    pair = make_pair()
    refused(
        PreferencePair.objects.filter(pk=pair.pk).update, rejected_id=pair.chosen_id
    )
    refused(PreferencePair.objects.bulk_create, [copy_of(pair)])


@pytest.mark.parametrize(
    "broken",
    [
        {"policy": None},
        {"finish_reason": "abort"},
        {"finish_reason": ""},
        {"source": "edited"},
        {"source": "imported"},
        {"source": "found"},
    ],
)
def test_a_completion_knows_where_it_came_from(broken):
    completion = make_comparison().a
    refused(Completion.objects.filter(pk=completion.pk).update, **broken)


def test_a_comparison_is_of_two_and_of_a_known_purpose_and_state():
    comparison = make_comparison()
    rows = Comparison.objects.filter(pk=comparison.pk)
    refused(rows.update, b_id=comparison.a_id)
    refused(rows.update, purpose="fun")
    refused(rows.update, state="half")


def test_a_lease_shows_two_and_ends_in_a_known_way():
    lease = make_lease()
    rows = Lease.objects.filter(pk=lease.pk)
    refused(rows.update, second_id=lease.first_id)
    refused(rows.update, outcome="lost")


def test_prompts_members_verdicts_and_reservations_are_there_once():
    pair = make_pair()
    prompt = make_prompt(project=pair.project)
    refused(Prompt.objects.bulk_create, [copy_of(prompt)])
    member = pair.project.memberships.get()
    refused(Membership.objects.bulk_create, [copy_of(member)])
    refused(Membership.objects.filter(pk=member.pk).update, role="owner")
    verdict = RuleVerdict.objects.create(pair=pair, rule="empty", result="pass")
    refused(RuleVerdict.objects.bulk_create, [copy_of(verdict)])
    taken = StockReservation(project=pair.project, prompt=prompt, until=NOW)
    taken.save()
    refused(StockReservation.objects.bulk_create, [copy_of(taken)])


def test_what_was_judged_keeps_its_answers_and_its_people():
    pair = make_pair()
    judgment = Judgment.objects.get()
    for row in (pair.chosen, pair.decision, judgment.annotator, judgment.lease):
        with pytest.raises(IntegrityError), transaction.atomic():
            row.delete()

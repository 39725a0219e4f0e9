"""The invariants attacked past the services: raw updates and bulk writes must fail."""

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from annotation.models import (
    AnnotatorWeight,
    Comparison,
    Completion,
    Decision,
    Judgment,
    Lease,
    LetThrough,
    Membership,
    PreferencePair,
    Prompt,
    ReviewClaim,
    RuleVerdict,
    Slot,
    StockReservation,
    Weighing,
)
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_lease,
    make_pair,
    make_prompt,
    make_user,
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


def test_a_pair_is_of_two_answers_and_once_for_a_decision_and_edit():
    pair = make_pair()
    refused(
        PreferencePair.objects.filter(pk=pair.pk).update, rejected_id=pair.chosen_id
    )
    refused(PreferencePair.objects.bulk_create, [copy_of(pair)])
    other = make_completion(prompt=pair.prompt)
    refused(PreferencePair.objects.bulk_create, [copy_of(pair, chosen_id=other.pk)])
    edits = [
        copy_of(
            pair,
            kind="edited",
            chosen_id=make_completion(prompt=pair.prompt).pk,
            rejected_id=pair.chosen_id,
        )
        for _ in range(2)
    ]
    PreferencePair.objects.bulk_create(edits)
    refused(PreferencePair.objects.bulk_create, [copy_of(edits[0])])


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


def test_a_decision_knows_its_method_and_reviewers_decide():
    pair = make_pair()
    decision = pair.decision
    reviewer = pair.decision.comparison.judgments.get().annotator
    weighing = Weighing.objects.create(
        project=pair.project,
        comparisons=20,
        judgments=40,
        iterations=3,
        prior=[0.25] * 4,
        average=[[0.25] * 4] * 4,
    )
    row = Decision.objects.filter(pk=decision.pk)
    refused(row.update, method="hunch")
    refused(row.update, method="reviewer")
    refused(row.update, method="weighted")
    refused(row.update, method="weighted", weighing=weighing)
    refused(row.update, method="weighted", weighing=weighing, posterior=1.01)
    refused(row.update, decided_by=reviewer)
    refused(row.update, posterior=0.9)
    row.update(method="weighted", weighing=weighing, posterior=0.9)
    refused(row.update, method="reviewer", decided_by=reviewer)
    row.update(method="reviewer", decided_by=reviewer, weighing=None, posterior=None)
    refused(row.update, outcome="review", winner=None)
    row.update(outcome="split", winner=None)


def test_one_claim_a_comparison_and_one_weight_an_annotator():
    judgment = make_judgment()
    claim = {"comparison": judgment.comparison, "until": NOW}
    ReviewClaim.objects.create(reviewer=judgment.annotator, **claim)
    other = make_judgment().annotator
    refused(ReviewClaim.objects.create, reviewer=other, **claim)
    weighing = Weighing.objects.create(
        project=judgment.project,
        comparisons=20,
        judgments=40,
        iterations=3,
        prior=[],
        average=[],
    )
    weight = AnnotatorWeight(
        weighing=weighing,
        annotator=judgment.annotator,
        judgments=20,
        errors=[],
        accuracy=0.5,
    )
    refused(AnnotatorWeight.objects.bulk_create, [copy_of(weight, accuracy=1.5)])
    weight.save()
    refused(AnnotatorWeight.objects.bulk_create, [copy_of(weight)])


def test_a_reviewers_word_stands_once_says_why_and_is_taken_back_by_somebody():
    pair, rita = make_pair(), make_user()
    word = LetThrough.objects.create(pair=pair, by=rita, note="fine", rules=["empty"])
    refused(LetThrough.objects.bulk_create, [copy_of(word)])
    refused(LetThrough.objects.filter(pk=word.pk).update, note="")
    refused(LetThrough.objects.filter(pk=word.pk).update, taken_back_at=NOW)
    refused(LetThrough.objects.filter(pk=word.pk).update, taken_back_by=rita)
    ended = {"taken_back_at": NOW, "taken_back_by": rita}
    LetThrough.objects.filter(pk=word.pk).update(**ended)
    LetThrough.objects.bulk_create([copy_of(word)])


def test_only_an_objection_is_let_through():
    pair = make_pair()
    pair.verdicts.create(rule="empty", result="reject", is_let_through=True)
    refused(pair.verdicts.create, rule="identical", result="pass", is_let_through=True)
    refused(pair.verdicts.update, result="pass")


def test_a_pair_is_repaired_once_and_by_somebody():
    old, rita = make_pair(), make_user()
    PreferencePair.objects.filter(pk=old.pk).update(superseded_at=NOW)
    refused(PreferencePair.objects.bulk_create, [copy_of(old, repaired_from_id=old.pk)])
    made = copy_of(
        old, repaired_from_id=old.pk, repairer_id=rita.pk, superseded_at=None
    )
    PreferencePair.objects.bulk_create([made])
    # A second repair of the same pair, even were it superseded at once.
    refused(
        PreferencePair.objects.bulk_create,
        [copy_of(old, repaired_from_id=old.pk, repairer_id=rita.pk)],
    )


def test_one_standing_pair_of_a_kind_for_a_decision():
    pair = make_pair()
    refused(PreferencePair.objects.bulk_create, [copy_of(pair)])
    PreferencePair.objects.bulk_create([copy_of(pair, superseded_at=NOW)])

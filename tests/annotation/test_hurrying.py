"""Pairs of judgments that were too fast for their annotator: who learns what of it."""

import pytest
from django.urls import reverse

from annotation import hurrying
from annotation.judging import submit_judgment, undo
from annotation.models import Decision, Judgment, PreferencePair, Role
from tests.factories import make_comparison, make_judgment, make_pair, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def pairs(project, annotator):
    """Alice's usual 20 s twenty-four times, and one pair that took her 1 s: far below a
    third of her median. Bob takes 1 s always, which is his pace; one pair is his."""
    bob = make_user("bob", project=project)
    for _number in range(24):
        make_judgment(project=project, annotator=annotator, seconds=20)
        make_judgment(project=project, annotator=bob, seconds=1)
    usual, fast = (
        make_pair(
            judgment=make_judgment(
                project=project, annotator=annotator, seconds=seconds
            )
        )
        for seconds in (20, 1)
    )
    his = make_pair(judgment=make_judgment(project=project, annotator=bob, seconds=1))
    return {"usual": usual, "fast": fast, "his": his}


def marked(pairs, role, user):
    rows = PreferencePair.objects.all()
    return hurrying.of_pairs(pairs["fast"].project, rows, role, user)


def page_of(client, user, pair) -> str:
    client.force_login(user)
    url = reverse("pair", args=[pair.project.slug, pair.pk])
    return client.get(url).content.decode()


def test_a_manager_learns_whose_how_fast_and_what_is_usual(client, pairs, manager):
    found = marked(pairs, Role.MANAGER, manager)
    assert list(found) == [pairs["fast"].pk]
    [hurried] = found[pairs["fast"].pk]
    assert (hurried.username, hurried.is_own, hurried.seconds) == ("alice", False, 1)
    # The answers are some letters longer or shorter than those of the others.
    assert hurried.usual == pytest.approx(20, rel=0.05)
    text = page_of(client, manager, pairs["fast"])
    assert "judged too fast" in text
    assert "alice judged it in 1.0 s" in text
    assert "too fast" not in page_of(client, manager, pairs["usual"])


def test_a_slip_that_was_undone_and_judged_anew_is_no_haste(project, pairs, annotator):
    """Ben judged that pair, too, and undid nothing; alice's other quick one stays marked."""
    slip = make_comparison(project=project, quota=2)
    ben = make_user("ben")
    make_judgment(comparison=slip, annotator=ben, seconds=20)
    first = make_judgment(comparison=slip, annotator=annotator, seconds=20)
    before = hurrying.paces(project)
    # Which side the new lease shows first comes from the ids, which PostgreSQL counts on.
    lease = undo(first)
    verdict = "first" if lease.first_id == first.winner_id else "second"
    again = submit_judgment(lease, verdict=verdict).judgment
    assert again.seconds < 2
    pair = PreferencePair.objects.get(decision__comparison=slip, superseded_at=None)
    found = hurrying.of_pairs(project, [pair, pairs["fast"]], Role.REVIEWER, ben)
    assert found == {pairs["fast"].pk: [hurrying.Hurried()]}
    known = hurrying.paces(project)
    assert len(known["alice"]) == len(before["alice"]) - 1
    assert known["ben"] == before["ben"]


def test_a_reviewer_learns_that_it_was_too_fast_and_no_more(client, pairs, reviewer):
    found = marked(pairs, Role.REVIEWER, reviewer)
    assert found == {pairs["fast"].pk: [hurrying.Hurried()]}
    text = page_of(client, reviewer, pairs["fast"])
    assert "Somebody judged it much faster" in text
    assert "alice" not in text and "1.0 s" not in text


def test_a_reviewer_learns_all_of_their_own(client, project, pairs, annotator):
    annotator.memberships.filter(project=project).update(role=Role.REVIEWER)
    [hurried] = marked(pairs, Role.REVIEWER, annotator)[pairs["fast"].pk]
    assert (hurried.username, hurried.is_own) == ("alice", True)
    assert "You judged it in 1.0 s" in page_of(client, annotator, pairs["fast"])


def test_what_was_undone_or_decided_by_a_reviewer_is_not_marked(pairs, manager):
    fast = pairs["fast"]
    decision = Decision.objects.filter(pk=fast.decision_id)
    decision.update(method="reviewer", decided_by=manager)
    assert marked(pairs, Role.MANAGER, manager) == {}
    decision.update(method="majority", decided_by=None)
    assert list(marked(pairs, Role.MANAGER, manager)) == [fast.pk]
    mine = Judgment.objects.filter(comparison=fast.decision.comparison)
    mine.update(undone_at="2026-01-01T00:00Z")
    assert marked(pairs, Role.MANAGER, manager) == {}


def test_an_edited_pair_of_the_same_judgment_is_marked_too(project, pairs, manager):
    fast = pairs["fast"]
    edited = PreferencePair.objects.create(
        project=project,
        prompt=fast.prompt,
        decision=fast.decision,
        kind="edited",
        chosen=fast.chosen,
        rejected=fast.rejected,
    )
    assert set(marked(pairs, Role.MANAGER, manager)) == {fast.pk, edited.pk}


def test_the_list_marks_it_and_costs_the_same_however_many(
    client, project, pairs, manager, annotator, django_assert_num_queries
):
    client.force_login(manager)
    url = reverse("pairs", args=[project.slug])
    assert client.get(url).content.decode().count("judged too fast") == 1
    # The pairs themselves, everybody's pace, and these pairs' judgments.
    with django_assert_num_queries(3):
        marked(pairs, Role.MANAGER, manager)
    for _number in range(3):
        make_pair(
            judgment=make_judgment(project=project, annotator=annotator, seconds=1)
        )
    with django_assert_num_queries(3):
        assert len(marked(pairs, Role.MANAGER, manager)) == 4

"""Threads that review at once: of two words on the same, one counts."""

import threading
import time

import pytest
from django.db import connection

from annotation import neighbours
from annotation.adjudicating import settle, take
from annotation.errors import PairsChanged, Settled
from annotation.judging import undo
from annotation.models import (
    Decision,
    Judgment,
    Lease,
    LetThrough,
    PreferencePair,
    Project,
    Role,
)
from annotation.redeciding import decide_again
from annotation.reviewing import let_through
from tests.acts import decide, freeze
from tests.factories import (
    make_comparison,
    make_judgment,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)
from tests.threads import together

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


def test_a_pair_let_through_while_its_neighbours_are_frozen_waits_or_is_waited_for(
    monkeypatch,
):
    """Of two prompts that are nearly the same: the pair let through holds the one of its
    own prompt when the round, which holds the other's, comes to it."""
    project = make_project(settings={"rules": {"near_duplicate": {"on": True}}})
    rita = make_user(project=project, role=Role.REVIEWER)
    asked = (
        "Please explain in a few plain words why water boils earlier on a mountain {}."
    )
    own, other = (make_prompt(asked.format(n), project=project) for n in ("top", "hut"))
    first, between, last = (
        make_pair(comparison=make_comparison(prompt=prompt), state=state)
        for prompt, state in ((own, "rejected"), (other, "accepted"), (own, "accepted"))
    )
    for pair in (first, between, last):
        neighbours.note(pair, "one", "another")
    first.verdicts.create(rule="similarity", result="reject", reason="alike")
    are_locked, reopen_later = threading.Event(), neighbours.reopen_later

    def late(pair):
        are_locked.set()
        time.sleep(0.3)  # Enough for the round to come to what is locked here.
        return reopen_later(pair)

    monkeypatch.setattr(neighbours, "reopen_later", late)

    def take():
        assert connection.vendor == "sqlite" or are_locked.wait(30)
        freeze(project, between, last)

    word, frozen = together(lambda: let_through(first, rita, "fine"), take)
    assert isinstance(word, LetThrough), word
    assert frozen is None or isinstance(frozen, PairsChanged), frozen


def make_split(project, quota=2):
    comparison = make_comparison(project=project, quota=quota)
    for verdict in ("first", "second"):
        make_judgment(comparison=comparison, verdict=verdict)
    decide(comparison)
    return comparison


def test_of_reviewers_who_settle_the_same_at_once_exactly_one_decides():
    project = make_project()
    reviewers = [make_user(project=project, role="reviewer") for _ in range(4)]
    for _ in range(6):
        comparison = make_split(project)
        results = together(
            *[
                lambda reviewer=reviewer, comparison=comparison: settle(
                    project, comparison.pk, reviewer, verdict="first"
                )
                for reviewer in reviewers
            ]
        )
        (decision,) = [result for result in results if isinstance(result, Decision)]
        others = [result for result in results if result is not decision]
        assert [type(other) for other in others] == [Settled] * 3, others
        standing = Decision.objects.get(comparison=comparison, superseded_at=None)
        assert standing == decision
        assert Decision.objects.filter(comparison=comparison).count() == 2
        assert PreferencePair.objects.get(decision=decision).superseded_at is None
    assert PreferencePair.objects.count() == 6


def test_reviewers_who_take_at_once_look_at_different_comparisons():
    project = make_project()
    reviewers = [make_user(project=project, role="reviewer") for _ in range(5)]
    made = {make_split(project).pk for _ in range(5)}
    taken = together(
        *[lambda reviewer=reviewer: take(project, reviewer) for reviewer in reviewers]
    )
    assert {getattr(one, "pk", one) for one in taken} == made


def test_of_a_settling_and_an_annotators_undo_at_once_one_happens():
    project = make_project()
    reviewer = make_user(project=project, role="reviewer")
    for _ in range(8):
        comparison = make_split(project)
        judgment = Judgment.objects.filter(comparison=comparison).first()
        settled, undone = together(
            lambda comparison=comparison: settle(
                project, comparison.pk, reviewer, verdict="tie"
            ),
            lambda judgment=judgment: undo(judgment),
        )
        judgment.refresh_from_db()
        standing = Decision.objects.filter(comparison=comparison, superseded_at=None)
        if isinstance(settled, Decision):
            assert isinstance(undone, Settled), undone
            assert judgment.undone_at is None
            assert standing.get() == settled
        else:
            assert isinstance(settled, Settled) and isinstance(undone, Lease)
            assert judgment.undone_at and not standing.exists()


def test_a_settling_and_deciding_anew_at_once_leave_the_reviewers_word():
    project = make_project(settings={"decide_by": "reviewer"})
    reviewer = make_user(project=project, role="reviewer")
    for _ in range(6):
        comparison = make_comparison(project=project, quota=1)
        make_judgment(comparison=comparison)
        decide(comparison)
        counted = make_project_count(project)
        settled, _changed = together(
            lambda comparison=comparison: settle(
                project, comparison.pk, reviewer, verdict="both_bad"
            ),
            lambda counted=counted: decide_again(counted),
        )
        standing = Decision.objects.get(comparison=comparison, superseded_at=None)
        if isinstance(settled, Decision):
            assert standing == settled
        else:
            assert isinstance(settled, Settled)
            assert (standing.method, standing.outcome) == ("majority", "winner")
        Project.objects.filter(pk=project.pk).update(settings={"decide_by": "reviewer"})


def make_project_count(project):
    """The project from now on decided by majority."""
    Project.objects.filter(pk=project.pk).update(settings={})
    return Project.objects.get(pk=project.pk)

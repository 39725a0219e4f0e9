"""Real processes and threads that judge at once: nothing doubled, nothing lost."""

import json
import os
import subprocess
import sys
from collections import Counter
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connection

from annotation import trust
from annotation.ending import skip
from annotation.errors import AlreadyUndone, Frozen, PairsChanged
from annotation.judging import submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Probe,
    Slot,
)
from tests.acts import freeze
from tests.factories import (
    judge_gold,
    make_comparison,
    make_gold,
    make_judgment,
    make_lease,
    make_pair,
    make_project,
    make_user,
)
from tests.threads import together

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]

PROCESSES = 6


def database_url() -> str:
    """Of the test's own database, for another process."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()


def start_racer(project, user, seed):
    return subprocess.Popen(
        [
            sys.executable,
            *("-m", "tests.annotation.racer"),
            *(project.slug, user.username, str(seed)),
        ],
        cwd=settings.BASE_DIR,
        env=os.environ
        | {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "config.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_judge_together_never_exceed_a_quota_nor_lose_a_judgment():
    project = make_project(settings={"stock": 0})
    for number in range(18):
        make_comparison(project=project, quota=1 + number % 3)
    users = [make_user(project=project) for _ in range(PROCESSES)]
    racers = [start_racer(project, user, seed) for seed, user in enumerate(users)]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        lines = [line for racer in racers for line in racer.stdout]
        assert [racer.wait(60) for racer in racers] == [0] * PROCESSES
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    acknowledged = [json.loads(line) for line in lines]

    answers = [answer for one in acknowledged for answer in one["answers"]]
    assert [answer for answer in answers if "error" in answer] == []
    for one in acknowledged:
        first, second = one["answers"]
        assert first["id"] == second["id"]
        assert {first["replay"], second["replay"]} == {False, True}
    stored = {str(pk) for pk in Judgment.objects.values_list("pk", flat=True)}
    assert Counter(a["id"] for a in answers) == dict.fromkeys(stored, 2)
    undone = Judgment.objects.filter(undone_at__isnull=False)
    assert {str(j.pk) for j in undone} == {
        one["answers"][0]["id"] for one in acknowledged if one["undone"]
    }
    standing = Counter(
        Judgment.objects.filter(undone_at=None).values_list("comparison", flat=True)
    )
    for comparison in Comparison.objects.all():
        assert standing[comparison.pk] == comparison.slots.count()
    assert set(Slot.objects.values_list("state", flat=True)) == {"judged"}
    assert not Lease.objects.filter(outcome="").exists()
    assert Decision.objects.filter(superseded_at=None).count() == 18


def test_of_an_undo_and_a_freeze_at_the_same_moment_exactly_one_happens():
    project = make_project()
    for _ in range(12):
        pair = make_pair(project=project)
        judgment = Judgment.objects.get(comparison=pair.decision.comparison)
        undone, frozen = together(
            lambda judgment=judgment: undo(judgment),
            lambda pair=pair: freeze(project, pair),
        )
        pair.refresh_from_db()
        judgment.refresh_from_db()
        if isinstance(undone, Lease):
            assert isinstance(frozen, PairsChanged), frozen
            assert pair.superseded_at and not pair.frozen_at and judgment.undone_at
        else:
            assert isinstance(undone, Frozen), undone
            assert frozen is None
            assert pair.frozen_at and not pair.superseded_at and not judgment.undone_at
    assert PreferencePair.objects.count() == 12


def test_two_undos_at_the_same_moment_undo_once():
    project = make_project()
    for _ in range(6):
        judgment = Judgment.objects.get(
            comparison=make_pair(project=project).decision.comparison
        )
        results = together(*[lambda judgment=judgment: undo(judgment)] * 2)
        assert sorted(type(result).__name__ for result in results) == [
            AlreadyUndone.__name__,
            Lease.__name__,
        ]


def test_one_annotator_in_many_tabs_holds_one_lease():
    project = make_project(settings={"stock": 0})
    user = make_user(project=project)
    for _ in range(8):
        make_comparison(project=project)
    leases = together(*[lambda: take_lease(project, user)] * 6)

    assert {lease.pk for lease in leases} == {Lease.objects.get().pk}
    assert Slot.objects.filter(state="leased").count() == 1


def test_one_annotator_in_many_tabs_is_given_one_probe():
    """Six tabs after each judgment: one lease, one probe of it, on gold never met."""
    project = make_project(settings={"stock": 0, "gold_rate": 1.0})
    user = make_user(project=project)
    make_judgment(project=project, annotator=user)
    for _ in range(3):
        make_gold(project=project)
    make_comparison(project=project)
    for number in range(1, 4):
        leases = together(*[lambda: take_lease(project, user)] * 6)
        assert len({lease.pk for lease in leases}) == 1, leases
        assert Probe.objects.count() == number
        assert Slot.objects.filter(state__in=["open", "leased"]).count() == 2
        submit_judgment(leases[0], verdict="first")
    assert take_lease(project, user).comparison.purpose == "train"


def test_letting_count_and_undoing_at_the_same_moment_leaves_no_half_decision():
    settings = {"stock": 0, "gold_rate": 1e-9, "gold_least": 1}
    project = make_project(settings=settings)
    user, manager = make_user(project=project), make_user()
    judge_gold(user, make_gold(project=project), is_right=False)
    for _ in range(6):
        comparison = make_comparison(project=project)
        lease = make_lease(comparison=comparison, annotator=user)
        judgment = submit_judgment(lease, verdict="first").judgment
        assert judgment.waits_for_review
        counted, undone = together(
            lambda: trust.let_count(project, user, manager),
            lambda judgment=judgment: undo(judgment),
        )
        assert isinstance(undone, Lease), undone
        assert counted in (0, 1)
        # Whichever came first, the undo has taken back what stood.
        assert not Decision.objects.filter(
            comparison=comparison, superseded_at=None
        ).exists()
        assert not PreferencePair.objects.filter(superseded_at=None).exists()
        skip(undone)

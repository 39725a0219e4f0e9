"""Real processes and threads on one database: nothing doubled, nothing lost."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connection

from annotation import neighbours, trust
from annotation.adjudicating import settle, take
from annotation.deciding import decide
from annotation.errors import AlreadyUndone, Frozen, PairsChanged, Settled
from annotation.freezing import freeze_pairs
from annotation.importing import import_prompts
from annotation.judging import judge_and_take, submit_judgment, undo
from annotation.leasing import lease_for, skip, take_lease
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    LetThrough,
    PreferencePair,
    Probe,
    Project,
    Prompt,
    Role,
    Slot,
    StockReservation,
)
from annotation.projects import change_member
from annotation.redeciding import decide_again
from annotation.reserving import SPARE, reserve
from annotation.reviewing import let_through
from annotation.stock import fill_stock, withdraw_stock
from inference.services import Sampled
from tests.factories import (
    judge_gold,
    make_comparison,
    make_gold,
    make_judgment,
    make_lease,
    make_pair,
    make_policy,
    make_project,
    make_prompt,
    make_user,
)

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


def together(*acts):
    """Run each act in a thread at the same moment; what they returned or raised."""
    start = threading.Barrier(len(acts))
    results = [None] * len(acts)

    def run(place, act):
        try:
            start.wait(30)
            results[place] = act()
        except Exception as error:
            results[place] = error
        finally:
            connection.close()

    threads = [
        threading.Thread(target=run, args=(place, act))
        for place, act in enumerate(acts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_an_undo_and_a_freeze_at_the_same_moment_exactly_one_happens():
    project = make_project()
    for _ in range(12):
        pair = make_pair(project=project)
        judgment = Judgment.objects.get(comparison=pair.decision.comparison)
        undone, frozen = together(
            lambda judgment=judgment: undo(judgment),
            lambda pair=pair: freeze_pairs(project, [pair]),
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

    def freeze():
        assert connection.vendor == "sqlite" or are_locked.wait(30)
        freeze_pairs(project, [between, last])

    word, frozen = together(lambda: let_through(first, rita, "fine"), freeze)
    assert isinstance(word, LetThrough), word
    assert frozen is None or isinstance(frozen, PairsChanged), frozen


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


def test_workers_that_fill_together_never_make_a_pile(monkeypatch):
    project = make_project(settings={"stock": 10})
    for n in range(6):
        make_prompt(f"Q{n}", project=project)
    lock, asked = threading.Lock(), []

    def generate_pair(policy, messages, sampling):
        with lock:
            asked.append(messages)
        return tuple(
            Sampled(policy, text, [1], [2], [-0.5], "stop", 7, sampling.as_dict())
            for text in ("One answer.", "Another answer.")
        )

    monkeypatch.setattr("inference.services.generate_pair", generate_pair)
    made = together(*[lambda: fill_stock(project)] * 4)

    # More than prompts are wanted, so workers wait for one another's prompts, too.
    assert sum(made) == len(asked) == Comparison.objects.count()
    assert 6 <= sum(made) <= 10
    while fill_stock(project):
        pass
    assert Comparison.objects.count() == 10
    assert not StockReservation.objects.exists()


def test_two_imports_of_the_same_file_at_once_count_exactly():
    from io import BytesIO

    project = make_project()
    file = b"".join(b'{"prompt": "question %d"}\n' % n for n in range(700))
    reports = together(*[lambda: import_prompts(project, BytesIO(file), "jsonl")] * 2)
    assert sum(report.accepted for report in reports) == 700
    assert sum(report.duplicates for report in reports) == 700
    assert Prompt.objects.count() == 700


def test_managers_who_each_add_a_member_at_once_lose_nobody():
    project = make_project(members={make_user("mallory"): Role.MANAGER})
    names = [f"new{number}" for number in range(5)]
    for name in names:
        make_user(name)
    together(
        *(lambda name=name: change_member(project, name, "annotator") for name in names)
    )
    members = project.memberships.values_list("user__username", flat=True)
    assert set(members) == {"mallory", *names}


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


# --- Reserved ahead -------------------------------------------------------------------
def test_one_annotator_in_many_tabs_reserves_one():
    project = make_project(settings={"stock": 0})
    user = make_user(project=project)
    for _ in range(8 + SPARE):
        make_comparison(project=project)
    take_lease(project, user)
    leases = together(*[lambda: reserve(project, user)] * 6)

    assert {lease.pk for lease in leases} == {Lease.objects.get(outcome="ahead").pk}
    assert Slot.objects.filter(state="leased").count() == 2


def test_people_who_reserve_and_judge_at_once_never_exceed_a_quota(monkeypatch):
    """Five people on the same few comparisons, some of whose reservations run out and
    are taken by others at the moment they come to the desk."""
    monkeypatch.setattr("annotation.reserving._enough", lambda *args: 1)
    project = make_project(settings={"stock": 0})
    for number in range(14):
        make_comparison(project=project, quota=1 + number % 3)
    users = [make_user(project=project) for _ in range(5)]

    def work(user):
        lease = take_lease(project, user)
        for turn in range(60):
            if lease is None:
                return
            ahead = reserve(project, user)
            if ahead is not None and turn % 3 == 0:
                Slot.objects.filter(lease=ahead, state="leased").update(
                    expires_at="2020-01-01T00:00Z"
                )
            _submitted, lease = judge_and_take(
                lease_for(user, lease.pk), user, verdict="first", has_ahead=True
            )

    results = together(*[lambda user=user: work(user) for user in users])
    assert results == [None] * 5
    for user in users:
        while (lease := take_lease(project, user)) is not None:
            submit_judgment(lease, verdict="first")
    standing = Counter(
        Judgment.objects.filter(undone_at=None).values_list("comparison", flat=True)
    )
    for comparison in Comparison.objects.all():
        assert standing[comparison.pk] == comparison.slots.count()
    assert set(Slot.objects.values_list("state", flat=True)) == {"judged"}
    assert not Lease.objects.filter(outcome__in=Lease.HELD).exists()


def test_a_promotion_while_reserved_pairs_come_to_the_desk_shows_none_that_it_withdrew():
    """Each is withdrawn unseen, or on the desk and to be judged: never both."""
    project = make_project(settings={"stock": 0})
    for _ in range(6):
        users = [make_user(project=project) for _ in range(4)]
        for _ in range(len(users) + 2 * 4 + SPARE):
            make_comparison(project=project)
        for user in users:
            take_lease(project, user)
        ahead = [reserve(project, user).pk for user in users]
        later = make_policy(project=project)
        results = together(
            *[
                lambda user=user: judge_and_take(
                    Lease.objects.get(annotator=user, outcome=""),
                    user,
                    verdict="first",
                    has_ahead=True,
                )
                for user in users
            ],
            lambda later=later: withdraw_stock(project, keep=later),
        )
        assert not [one for one in results if isinstance(one, Exception)], results
        for key in ahead:
            lease = Lease.objects.select_related("comparison").get(pk=key)
            if lease.outcome == "":
                assert Slot.objects.get(lease=lease).state == "leased"
                submit_judgment(lease, verdict="first")
            else:
                assert lease.outcome == "expired"
                assert not Slot.objects.filter(lease=lease).exists()
        for lease in Lease.objects.filter(outcome=""):
            submit_judgment(lease, verdict="tie")
        withdraw_stock(project, keep=later)
        assert not Lease.objects.filter(outcome="ahead").exists()
        assert not Slot.objects.filter(state="leased").exists()

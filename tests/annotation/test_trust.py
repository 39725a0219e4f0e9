"""What is known of an annotator, and what follows from being below the floor."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from annotation import quality, queries, sways, trust
from annotation.adjudicating import queue
from annotation.errors import NotYours
from annotation.judging import submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import Decision, Judgment, PreferencePair
from annotation.project_settings import ProjectSettings
from annotation.stock import fresh
from tests.acts import decide
from tests.annotation.exported import export
from tests.factories import (
    judge_gold,
    make_comparison,
    make_gold,
    make_judgment,
    make_lease,
    make_probe,
    make_project,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

# A rate that never comes true: gold counts, and none is mixed in between.
SETTINGS = {"stock": 0, "gold_rate": 1e-9, "gold_least": 4, "gold_floor": 0.7}


@pytest.fixture
def project(db):
    return make_project(settings=SETTINGS)


def on_gold(project, annotator, *rights):
    return [
        judge_gold(annotator, make_gold(project=project), right) for right in rights
    ]


def judge(project, annotator, comparison=None, verdict="first"):
    comparison = comparison or make_comparison(project=project)
    lease = make_lease(comparison=comparison, annotator=annotator)
    return submit_judgment(lease, verdict=verdict).judgment


def test_gold_is_counted_from_its_probes_without_statistics(project, annotator):
    """SQLite has none, and went through all judgments of the project."""
    on_gold(project, annotator, True, False)
    for whose in ({}, {"user": annotator}):
        with CaptureQueriesContext(connection) as asked:
            assert trust.checks(project, **whose)["alice"].gold.of == 2
        (counted,) = (q["sql"] for q in asked if "ROW_NUMBER" in q["sql"])
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {counted}")
                plan = "\n".join(row[-1] for row in cursor.fetchall())
            assert "annotation_probe USING INDEX my_probes" in plan
            assert "(comparison_id=?)" in plan, plan


def test_right_on_gold_is_the_winner_or_the_verdict_that_was_expected(
    project, annotator
):
    """Two of four: a winner and a both-bad; a tie where one is better, and a winner
    where both are bad, are wrong. Wilson's interval of 2 of 4 is 0.15 to 0.85."""
    for expected, verdict in [
        ("winner", "first"),
        ("winner", "tie"),
        ("both_bad", "both_bad"),
        ("both_bad", "second"),
    ]:
        probe = make_probe(
            annotator, gold=make_gold(project=project, expected=expected)
        )
        make_judgment(comparison=probe.comparison, annotator=annotator, verdict=verdict)
    known = trust.checks(project)["alice"]
    assert (known.gold.count, known.gold.of, known.gold_seen) == (2, 4, 4)
    for floor in (0.5, 0.51):  # both ways of counting say the same
        own = ProjectSettings(gold_rate=0.1, gold_least=4, gold_floor=floor)
        assert trust.is_below(project.pk, annotator.pk, own) == (floor > 0.5)
    assert (known.gold.low, known.gold.high) == pytest.approx((0.150, 0.850), abs=1e-3)


def test_below_the_floor_after_enough_gold_new_judgments_wait(project, annotator):
    on_gold(project, annotator, True, False, False)
    assert not judge(project, annotator).waits_for_review  # too little gold yet
    on_gold(project, annotator, True)  # 2 of 4 < 0.7

    judgment = judge(project, annotator)
    assert judgment.waits_for_review
    assert judgment.slot.state == "judged"
    decision = decide(judgment.comparison)
    assert decision is not None and (decision.outcome, decision.winner) == (
        "review",
        None,
    )
    assert list(queue(project)) == [judgment.comparison]
    known = trust.checks(project)["alice"]
    assert known.is_below and known.waiting == 1


def test_the_floor_itself_is_enough(project, annotator):
    """11 of 20 is 0.55 exactly, which 0.55 · 20 = 11.000000000000002 would miss."""
    project.settings = SETTINGS | {"gold_least": 20, "gold_floor": 0.55}
    project.save()
    on_gold(project, annotator, *[True] * 11, *[False] * 9)
    assert not judge(project, annotator).waits_for_review


def test_only_the_latest_gold_counts_so_one_can_recover(project, annotator):
    """Of 3 · 4 = 12: after four wrong and nine right, 9 of the latest 12."""
    on_gold(project, annotator, *[False] * 4, *[True] * 8)
    assert judge(project, annotator).waits_for_review  # 8 of 12 = 0.67
    on_gold(project, annotator, True)
    assert not judge(project, annotator).waits_for_review
    known = trust.checks(project)["alice"]
    assert (known.gold.count, known.gold.of, known.gold_seen) == (9, 12, 13)
    assert not known.is_below and known.waiting == 1


@pytest.mark.parametrize("off", [{"gold_rate": 0}, {"gold_floor": 0}])
def test_without_gold_or_floor_nothing_waits(project, annotator, off):
    project.settings = SETTINGS | off
    project.save()
    on_gold(project, annotator, *[False] * 5)
    assert not judge(project, annotator).waits_for_review


def test_gold_that_was_wrong_or_undone_counts_for_nothing(project, annotator):
    judgments = on_gold(project, annotator, *[False] * 5)
    undo(judgments[0])
    gold = judgments[1].comparison.probe.gold
    gold.retired_at, gold.retired_by = timezone.now(), make_user()
    gold.was_wrong = True
    gold.save()
    assert trust.checks(project)["alice"].gold.of == 3
    assert not trust.is_below(
        project.pk, annotator.pk, trust.project_settings.of(project)
    )


def test_judgments_on_probes_never_wait(project, annotator):
    on_gold(project, annotator, *[False] * 4)
    probe = make_probe(annotator, gold=make_gold(project=project))
    assert not judge(project, annotator, probe.comparison).waits_for_review


def test_the_floor_is_one_project_s_own(project, annotator):
    on_gold(project, annotator, *[False] * 4)
    other = make_project(settings=SETTINGS, members={annotator: "annotator"})
    assert not judge(other, annotator).waits_for_review


def test_a_comparison_waits_for_one_of_its_judgments(project, annotator):
    """Three slots: while one is open others may still judge; then the waiting one
    holds the decision back."""
    on_gold(project, annotator, *[False] * 4)
    comparison = make_comparison(project=project, quota=2)
    waiting = judge(project, annotator, comparison)
    assert not queue(project)
    judge(project, make_user(project=project), comparison)
    assert list(queue(project)) == [comparison]
    assert not comparison.decisions.filter(winner__isnull=False).exists()
    undo(waiting)
    assert not queue(project)


def test_letting_them_count_decides_and_says_who_did(project, annotator, manager):
    on_gold(project, annotator, *[False] * 4)
    judgments = [judge(project, annotator) for _ in range(3)]
    assert trust.let_count(project, annotator, manager) == 3
    assert trust.let_count(project, annotator, manager) == 0

    for judgment in judgments:
        judgment.refresh_from_db()
        assert judgment.let_count_by == manager and judgment.let_count_at
        assert not judgment.waits_for_review
    assert PreferencePair.objects.filter(superseded_at=None).count() == 3
    assert not queue(project)
    # They are below the floor as before: what comes now waits again.
    assert judge(project, annotator).waits_for_review


def test_a_judgment_let_count_can_still_be_undone(project, annotator, manager):
    on_gold(project, annotator, *[False] * 4)
    judgment = judge(project, annotator)
    trust.let_count(project, annotator, manager)
    fresh = undo(Judgment.objects.get(pk=judgment.pk))
    assert submit_judgment(fresh, verdict="second").judgment.waits_for_review
    standing = Decision.objects.get(comparison=judgment.comparison, superseded_at=None)
    assert standing.outcome == "review"


@pytest.mark.parametrize(
    ("other", "may"),
    [
        ({"role": "reviewer"}, False),
        ({"role": "manager"}, False),
        ({"role": "annotator"}, True),
        ({"role": "reviewer", "is_active": False}, True),
    ],
)
def test_nobody_lets_their_own_count_while_somebody_else_could(project, other, may):
    rita = make_user("rita", project=project, role="reviewer")
    other = make_user(project=project, **other)
    on_gold(project, rita, *[False] * 4)
    judgment = judge(project, rita)
    if may:
        assert trust.let_count(project, rita, rita) == 1
        return
    with pytest.raises(NotYours, match="another reviewer has to"):
        trust.let_count(project, rita, rita)
    judgment.refresh_from_db()
    assert judgment.waits_for_review
    assert trust.let_count(project, rita, other) == 1


def test_undoing_changes_what_one_is_told_only_at_the_next_full_hour(
    project, annotator
):
    """Two of three gold right, a repeat and its first, and a judgment that waits."""
    wrong, *_right = on_gold(project, annotator, False, True, True)
    first = make_judgment(project=project, annotator=annotator)
    again = make_probe(annotator, repeats=first)
    make_judgment(comparison=again.comparison, annotator=annotator, verdict="second")
    waits = make_judgment(project=project, annotator=annotator, waits_for_review=True)
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=3))

    def told():
        known = trust.told_to(project, annotator)
        return (
            (known.gold.count, known.gold.of, known.gold_seen),
            (known.consistent.count, known.consistent.of),
            known.waiting,
            trust.is_told(project, annotator),
        )

    before = (2, 3, 3), (1, 1), 1, True
    assert told() == before
    undone = Judgment.objects.filter(pk__in=[wrong.pk, first.pk, waits.pk])
    undone.update(undone_at=timezone.now())
    assert told() == before
    assert trust.checks(project)["alice"].gold.of == 2  # managers read it at once
    undone.update(undone_at=timezone.now() - timedelta(hours=1))
    assert told() == ((2, 2, 2), (0, 0), 0, False)


def test_consistency_is_the_same_winner_or_verdict_again(project, annotator):
    """First won and, shown second, won again; a tie again; a both-bad and then a tie.
    Two of three; what was undone since doesn't count."""
    for earlier, verdict in [
        ("first", "second"),
        ("tie", "tie"),
        ("both_bad", "tie"),
        ("first", "first"),
    ]:
        judgment = make_judgment(project=project, annotator=annotator, verdict=earlier)
        probe = make_probe(annotator, repeats=judgment)
        make_judgment(comparison=probe.comparison, annotator=annotator, verdict=verdict)
    Judgment.objects.filter(pk=judgment.pk).update(undone_at=timezone.now())
    same = trust.checks(project)["alice"].consistent
    assert (same.count, same.of) == (2, 3)


def test_too_fast_is_by_ones_own_pace(project, annotator):
    """Alice always takes 20 s, once 1 s; Bob takes 1 s always, and that is his pace."""
    bob = make_user("bob", project=project)
    for seconds in [20.0] * 24 + [1.0]:
        make_judgment(project=project, annotator=annotator, seconds=seconds)
        make_judgment(project=project, annotator=bob, seconds=1.0)
    known = trust.checks(project)
    assert (known["alice"].too_fast.count, known["alice"].too_fast.of) == (1, 25)
    assert (known["bob"].too_fast.count, known["bob"].too_fast.of) == (0, 25)


def test_the_person_is_told_of_the_last_full_hour_only(project, annotator):
    judgments = on_gold(project, annotator, *[False] * 4)
    waiting = judge(project, annotator)
    assert trust.told_to(project, annotator) == trust.NOTHING
    assert not trust.is_told(project, annotator)
    hour = timezone.now() - timedelta(hours=1)
    for judgment in (*judgments[:3], waiting):
        Judgment.objects.filter(pk=judgment.pk).update(created_at=hour)
    told = trust.told_to(project, annotator)
    assert (told.gold.count, told.gold.of, told.waiting) == (0, 3, 1)
    assert trust.is_told(project, annotator)
    assert not trust.is_told(project, make_user(project=project))


def test_how_often_one_hurried_is_told_of_the_last_full_hour_too(project, annotator):
    """Twenty-four judgments of 20 s and one of 1 s an hour ago, and one of 1 s now."""
    for seconds in [20.0] * 24 + [1.0]:
        make_judgment(project=project, annotator=annotator, seconds=seconds)
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=1))
    make_judgment(project=project, annotator=annotator, seconds=1.0)

    told = trust.told_to(project, annotator).too_fast
    assert (told.count, told.of) == (1, 25)
    known = trust.checks(project)["alice"].too_fast  # what managers read
    assert (known.count, known.of) == (2, 26)


def test_the_figures_cost_the_same_queries_for_many_people(
    project, django_assert_num_queries
):
    def somebody():
        user = make_user(project=project)
        on_gold(project, user, True, False)
        judgment = make_judgment(project=project, annotator=user)
        make_judgment(
            comparison=make_probe(user, repeats=judgment).comparison, annotator=user
        )

    somebody()
    with django_assert_num_queries(4):
        assert len(trust.checks(project)) == 1
    for _ in range(4):
        somebody()
    with django_assert_num_queries(4):
        assert len(trust.checks(project)) == 5


def test_submitting_costs_one_query_more_with_a_floor_and_none_without(annotator):
    def cost(settings):
        project = make_project(settings=settings, members={annotator: "annotator"})
        make_comparison(project=project)
        lease = take_lease(project, annotator)
        with CaptureQueriesContext(connection) as queries:
            submit_judgment(lease, verdict="tie")
        return len(queries)

    assert cost(SETTINGS) == cost({"stock": 0}) + 1
    assert cost(SETTINGS | {"gold_rate": 0}) == cost({"stock": 0})


def test_probes_are_left_out_of_whatever_speaks_of_training(project, annotator):
    """Gold and repeats, decided and with an open slot: nothing counts them but what
    counts a person's work."""
    assert fresh(project) == 0
    source = make_judgment(project=project, annotator=annotator, undone_at=None)
    before = (
        queries.funnel(project),
        quality.agreement(project),
        list(export(project, "kto")),
    )
    bias = sways.bias(project)
    gold = make_gold(project=project)
    make_probe(make_user(project=project), gold=gold)  # its slot stays open
    for made in (
        {"gold": gold},
        {"gold": make_gold(project=project, expected="tie")},
        {"repeats": source},
    ):
        after = make_judgment(annotator=annotator, project=project)
        probe = make_probe(annotator, **made, after=after)
        judge(project, annotator, probe.comparison, verdict="tie")
    Judgment.objects.filter(comparison__purpose="train").exclude(pk=source.pk).update(
        undone_at=timezone.now()
    )
    assert Decision.objects.filter(outcome="tie").count() == 3
    assert before == (
        queries.funnel(project),
        quality.agreement(project),
        list(export(project, "kto")),
    )
    assert sways.bias(project) == bias
    assert fresh(project) == 0
    assert not queries.standing_pairs(project)
    assert not queries.alike_decisions(project)

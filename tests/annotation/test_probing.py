"""Gold and repeats: when they come, to whom, and that nothing tells them apart."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from annotation import probing
from annotation.counting import Counted
from annotation.ending import skip
from annotation.gold import from_pair, retire
from annotation.judging import submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Probe,
    Project,
    Slot,
)
from annotation.overview import idle_annotators, waiting_for, with_figures
from annotation.project_settings import ProjectSettings
from annotation.showing import prompt_shown
from annotation.stock import withdraw_stock
from tests.factories import (
    judge_gold,
    make_comparison,
    make_completion,
    make_gold,
    make_judgment,
    make_pair,
    make_policy,
    make_probe,
    make_project,
    make_prompt,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

ALWAYS_GOLD = {"stock": 0, "gold_rate": 1.0}
ALWAYS_REPEAT = {"stock": 0, "repeat_rate": 1.0}


@pytest.fixture
def project(db):
    """Every judgment is followed by gold while there is some."""
    return make_project(settings=ALWAYS_GOLD)


def long_ago(*judgments):
    for judgment in judgments:
        Judgment.objects.filter(pk=judgment.pk).update(
            created_at=timezone.now() - timedelta(hours=2)
        )


def judged_before(project, annotator, count, **fields):
    """As many judgments, made two hours ago and every minute since."""
    made = [
        make_judgment(project=project, annotator=annotator, **fields)
        for _ in range(count)
    ]
    for minute, judgment in enumerate(made):
        at = timezone.now() - timedelta(hours=2) + timedelta(minutes=minute)
        Judgment.objects.filter(pk=judgment.pk).update(created_at=at)
    return made


def test_gold_comes_after_a_judgment_for_this_annotator_alone(project, annotator):
    gold = make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    waiting = make_comparison(project=project)
    other = make_user(project=project)

    lease = take_lease(project, annotator)
    assert lease.comparison.purpose == "gold"
    assert {lease.first, lease.second} == {gold.a, gold.b}
    assert lease.is_new
    assert Slot.objects.get(comparison=lease.comparison).lease_id == lease.pk
    assert Probe.objects.get().gold == gold
    assert take_lease(project, other).comparison == waiting


def test_asking_again_gives_the_same_probe_and_makes_no_other(project, annotator):
    make_gold(project=project), make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    lease = take_lease(project, annotator)
    again = take_lease(project, annotator)
    assert again == lease and not again.is_new
    assert Probe.objects.count() == 1


def test_nothing_is_mixed_in_before_the_first_judgment(project, annotator):
    make_gold(project=project)
    waiting = make_comparison(project=project)
    assert take_lease(project, annotator).comparison == waiting


def test_no_gold_comes_twice_to_the_same_person_and_each_to_everybody(project):
    golds = {make_gold(project=project) for _ in range(3)}
    for user in (make_user(project=project), make_user(project=project)):
        make_judgment(project=project, annotator=user)
        met = set()
        while (lease := take_lease(project, user)) is not None:
            assert lease.comparison.probe.gold not in met
            met.add(lease.comparison.probe.gold)
            submit_judgment(lease, verdict="tie")
        assert met == golds


def test_the_database_refuses_the_same_gold_twice_to_a_person(project, annotator):
    gold = make_gold(project=project)
    probe = make_probe(annotator, gold=gold)
    make_probe(make_user(project=project), gold=gold)
    for same in ({"gold": gold}, {"gold": make_gold(project=project)}):
        after = (
            probe.after
            if same["gold"] != gold
            else make_judgment(project=project, annotator=annotator)
        )
        with pytest.raises(IntegrityError), transaction.atomic():
            make_probe(annotator, after=after, **same)


def test_retired_gold_and_ones_own_and_what_one_judged_there_are_left_out(
    project, annotator
):
    make_gold(project=project, author=annotator)
    make_gold(
        project=project, retired_at=timezone.now(), retired_by=make_user("retirer")
    )
    mine = make_judgment(project=project, annotator=annotator)
    make_gold(a=mine.comparison.a, b=mine.comparison.b, source=mine.comparison)
    make_gold()  # of another project
    assert take_lease(project, annotator) is None


def test_gold_that_was_made_anew_is_nothing_new_to_who_met_the_retired_item(
    project, annotator, other_annotator
):
    pair = make_pair(project=project)
    reviewer = make_user(project=project, role="reviewer")
    first = from_pair(pair, reviewer)
    judge_gold(annotator, first)
    retire(first, reviewer)
    anew = from_pair(pair, reviewer)

    assert take_lease(project, annotator) is None
    make_judgment(project=project, annotator=other_annotator)
    assert take_lease(project, other_annotator).comparison.probe.gold == anew


def test_a_probe_whose_time_ran_out_goes_to_nobody_else(project, annotator):
    make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    lease = take_lease(project, annotator)
    past = timezone.now() - timedelta(seconds=1)
    Lease.objects.filter(pk=lease.pk).update(expires_at=past)
    Slot.objects.filter(lease=lease).update(expires_at=past)

    assert take_lease(project, make_user(project=project)) is None
    # It is still theirs, and a late judgment is kept.
    assert take_lease(project, annotator) == lease
    assert submit_judgment(lease, verdict="first").judgment.slot.state == "judged"


def test_a_skipped_probe_is_withdrawn_and_no_other_comes_in_its_place(
    project, annotator
):
    make_gold(project=project), make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    ordinary = make_comparison(project=project)
    lease = take_lease(project, annotator)
    skip(lease, "no idea")
    skip(lease, "no idea")

    lease.comparison.refresh_from_db()
    assert lease.comparison.state == "withdrawn"
    assert Slot.objects.get(comparison=lease.comparison).state == "withdrawn"
    assert take_lease(project, annotator).comparison == ordinary


def test_an_undo_puts_the_probe_off_and_it_comes_back(project, annotator):
    make_gold(project=project), make_gold(project=project)
    before = make_judgment(project=project, annotator=annotator)
    probe = take_lease(project, annotator)
    fresh = undo(before)
    assert take_lease(project, annotator) == fresh
    submit_judgment(fresh, verdict="second")

    again = take_lease(project, annotator)
    assert again.comparison == probe.comparison
    assert again.pk != probe.pk and again.first == probe.first
    assert Probe.objects.count() == 1


@pytest.mark.parametrize("was_wrong", [True, False])
def test_gold_retired_while_a_probe_of_it_is_put_off_does_not_come_back(
    project, annotator, was_wrong
):
    item = make_gold(project=project)
    judgment = make_judgment(project=project, annotator=annotator)
    probe = take_lease(project, annotator)
    fresh = undo(judgment)  # The probe gives way to the pair that is judged anew.
    retire(item, make_user(), was_wrong=was_wrong)
    submit_judgment(fresh, verdict="first")

    assert take_lease(project, annotator) is None
    probe.comparison.refresh_from_db()
    assert probe.comparison.state == Comparison.State.WITHDRAWN
    assert probe.comparison.slots.get().state == Slot.State.WITHDRAWN


def test_gold_retired_while_it_is_on_a_desk_is_finished_there(project, annotator):
    item = make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    lease = take_lease(project, annotator)
    retire(item, make_user())

    assert take_lease(project, annotator) == lease
    assert submit_judgment(lease, verdict="first").judgment.slot.state == "judged"
    lease.comparison.refresh_from_db()
    assert lease.comparison.state == Comparison.State.DECIDED


def test_a_probe_that_comes_no_more_does_not_count_as_waiting(project, annotator):
    """Put off by an undo, and the project has stopped mixing gold in since."""
    make_gold(project=project)
    judgment = make_judgment(project=project, annotator=annotator)
    probe = take_lease(project, annotator)
    submit_judgment(undo(judgment), verdict="first")
    assert probe.comparison.slots.get().state == Slot.State.OPEN

    project.settings = {}
    project.save()
    assert take_lease(project, annotator) is None
    assert not waiting_for(project, annotator)
    assert idle_annotators(project) == [annotator.username]
    figures = with_figures(Project.objects.filter(pk=project.pk), annotator)
    assert figures.get().n_waiting == 0


def test_a_judged_probe_can_be_undone_and_judged_again(project, annotator):
    make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    lease = take_lease(project, annotator)
    judgment = submit_judgment(lease, verdict="first").judgment
    assert Decision.objects.get().outcome == "winner"
    fresh = undo(judgment)
    assert (fresh.first, fresh.second) == (lease.first, lease.second)
    submit_judgment(fresh, verdict="tie")
    assert Decision.objects.get(superseded_at=None).outcome == "tie"
    assert not PreferencePair.objects.exists()


def test_a_repeat_shows_the_other_side_first_whatever_was_shown_then(annotator):
    project = make_project(settings=ALWAYS_REPEAT, members={annotator: "annotator"})
    judged_before(project, annotator, 30)
    for _ in range(8):
        lease = take_lease(project, annotator)
        earlier = Probe.objects.get(comparison=lease.comparison).repeats.lease
        assert lease.comparison.purpose == "repeat"
        assert (lease.first, lease.second) == (earlier.second, earlier.first)
        assert lease.comparison_alias != earlier.comparison_alias
        assert not {lease.first_alias, lease.second_alias} & {
            earlier.first_alias,
            earlier.second_alias,
        }
        fresh = undo(submit_judgment(lease, verdict="first").judgment)
        assert (fresh.first, fresh.second) == (lease.first, lease.second)
        submit_judgment(fresh, verdict="first")


@pytest.fixture
def repeating(annotator):
    return make_project(settings=ALWAYS_REPEAT, members={annotator: "annotator"})


def test_the_last_few_are_not_repeated(repeating, annotator):
    judged_before(repeating, annotator, probing.REPEAT_GAP)
    assert take_lease(repeating, annotator) is None


def test_what_was_judged_a_moment_ago_is_not_repeated(repeating, annotator):
    for _ in range(probing.REPEAT_GAP + 5):
        make_judgment(project=repeating, annotator=annotator)
    assert take_lease(repeating, annotator) is None


def test_only_standing_judgments_of_their_own_on_ordinary_pairs_are_repeated(
    repeating, annotator
):
    """Not what was undone, not somebody else's, not what came again already, nor the
    judgment on it then, nor one on gold: of six just one is left."""
    undone = make_judgment(
        project=repeating, annotator=annotator, undone_at=timezone.now()
    )
    others = make_judgment(project=repeating)
    repeated, fit = (
        make_judgment(project=repeating, annotator=annotator) for _ in range(2)
    )
    later = [
        make_judgment(project=repeating, annotator=annotator)
        for _ in range(probing.REPEAT_GAP)
    ]
    again = make_probe(annotator, repeats=repeated, after=later[0])
    gold = make_probe(annotator, gold=make_gold(project=repeating), after=later[1])
    measured = [
        make_judgment(comparison=probe.comparison, annotator=annotator)
        for probe in (again, gold)
    ]
    long_ago(undone, others, repeated, fit, *measured)

    lease = take_lease(repeating, annotator)
    assert lease.comparison.probe.repeats == fit
    submit_judgment(lease, verdict="tie")
    assert take_lease(repeating, annotator) is None


def test_probes_come_at_the_rates_that_are_set():
    """Of 1000 draws 200 gold and 100 repeats are expected, σ = 12.6 and 9.5; five σ
    either way. The same draw gives the same again, another person's another."""
    own = ProjectSettings(gold_rate=0.2, repeat_rate=0.1)
    drawn = [probing.draw(7, number, own) for number in range(1000)]
    kinds = [kind for kind, _pick in drawn]
    assert 137 <= kinds.count("gold") <= 263
    assert 53 <= kinds.count("repeat") <= 147
    assert drawn == [probing.draw(7, number, own) for number in range(1000)]
    assert kinds != [probing.draw(8, number, own)[0] for number in range(1000)]
    # Which one is picked has nothing to do with whether one is due.
    assert len({pick % 2 for kind, pick in drawn if kind == "gold"}) == 2


def test_a_due_probe_that_nothing_fits_is_left_out(project, annotator):
    make_judgment(project=project, annotator=annotator)
    waiting = make_comparison(project=project)
    assert take_lease(project, annotator).comparison == waiting


def test_the_order_of_gold_is_drawn_anew_for_each_person(project):
    gold, firsts = make_gold(project=project), set()
    for _ in range(20):
        user = make_user(project=project)
        make_judgment(project=project, annotator=user)
        firsts.add(take_lease(project, user).first_id)
    assert firsts == {gold.a_id, gold.b_id}


def test_imported_gold_shows_the_system_prompt_that_the_others_show(annotator):
    project = make_project(
        settings=ALWAYS_GOLD | {"sampling": {"system_prompt": "Be brief."}},
        members={annotator: "annotator"},
    )
    prompt = make_prompt(project=project)
    a, b = (make_completion(prompt=prompt, source="imported") for _ in "ab")
    make_gold(a=a, b=b)
    make_judgment(project=project, annotator=annotator)
    shown = prompt_shown(take_lease(project, annotator))
    assert shown == [{"role": "system", "content": "Be brief."}, *prompt.messages]


@pytest.mark.parametrize("rates, extra", [({}, 0), ({"gold_rate": 1e-9}, 2)])
def test_what_mixing_in_costs_where_nothing_is_due(
    annotator, rates, extra, django_assert_num_queries
):
    project = make_project(settings={"stock": 0} | rates)
    make_judgment(project=project, annotator=annotator)
    make_gold(project=project), make_comparison(project=project)
    with django_assert_num_queries(8 + extra):
        assert take_lease(project, annotator).comparison.purpose == "train"


def test_a_newer_policy_leaves_probes_alone(project, annotator):
    make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    lease = take_lease(project, annotator)
    withdraw_stock(project, keep=make_policy(project=project))
    lease.comparison.refresh_from_db()
    assert lease.comparison.state == Comparison.State.OPEN


def test_ones_own_probe_on_the_desk_stands_for_one_of_those_that_wait(
    project, annotator, other_annotator
):
    """Taking any other pair leaves the number as it was, as it stays counted while it is
    on the desk; were it different for a probe, the number would tell it. With nothing
    else ready, what is on the desk is one."""

    def waiting(user):
        return with_figures(Project.objects.filter(pk=project.pk), user).get()

    make_gold(project=project)
    make_judgment(project=project, annotator=annotator)
    make_comparison(project=project)
    assert waiting(annotator).n_waiting == 1
    n_open = waiting(annotator).n_open
    lease = take_lease(project, annotator)
    assert lease.comparison.purpose == "gold"
    assert waiting(annotator).n_waiting == 1
    assert waiting_for(project, annotator) == Counted(1, most=100)
    assert waiting(other_annotator).n_waiting == 1
    the_other = take_lease(project, other_annotator)
    assert the_other.comparison.purpose == "train"
    assert waiting(annotator).n_waiting == 1
    assert waiting_for(project, annotator) == Counted(1, most=100)
    skip(the_other)
    # What managers read leaves probes out.
    assert waiting(annotator).n_open == n_open
    before = waiting(annotator).n_mine_today
    submit_judgment(lease, verdict="first")
    assert waiting(annotator).n_mine_today == before + 1
    assert waiting(annotator).n_waiting == 1

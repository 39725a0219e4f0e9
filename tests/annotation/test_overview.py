"""A project's overview: what needs an act, how much, how well, by whom."""

from datetime import timedelta

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format

from annotation import annotators, overview
from annotation.models import Decision, Judgment, PreferencePair
from annotation.standing import last_full_hour
from inference.models import Replica
from inference.replicas import replica_urls
from tests.factories import (
    make_comparison,
    make_gold,
    make_judgment,
    make_lease,
    make_pair,
    make_policy,
    make_probe,
    make_project,
    make_prompt,
    make_user,
)
from training.models import RoundPair, TrainingRound

pytestmark = pytest.mark.both_databases


@pytest.fixture
def page_for(client, project):
    def page_for(user):
        client.force_login(user)
        return client.get(reverse("project", args=[project.slug]))

    return page_for


def text(response) -> str:
    return " ".join(response.content.decode().split())


def ago(rows, days) -> None:
    rows.update(created_at=timezone.now() - timedelta(days=days))


# --- Days and pace --------------------------------------------------------------------


def test_days_count_judgments_and_the_sound_pairs_that_came_of_them(project):
    make_pair(project=project)
    make_pair(project=project, state="rejected")
    judgment = make_judgment(project=project)
    ago(Judgment.objects.filter(pk=judgment.pk), 3)
    make_judgment(project=project, undone_at=timezone.now())
    ago(Judgment.objects.filter(pk=make_judgment(project=project).pk), 40)
    imported = make_pair(project=project)
    PreferencePair.objects.filter(pk=imported.pk).update(
        kind="imported", decision=None, created_at=timezone.now()
    )
    make_pair()
    found = overview.days(project)
    assert len(found) == 28
    assert found[-1]["day"] == timezone.localdate()
    assert (found[-1]["judgments"], found[-1]["pairs"]) == (3, 1)
    assert (found[-4]["judgments"], found[-4]["pairs"]) == (1, 0)
    assert sum(day["judgments"] for day in found) == 4


def test_a_pair_made_anew_is_no_new_work(project):
    """Repaired or decided again today, of a judgment five days old."""
    pair = make_pair(project=project)
    ago(Judgment.objects.filter(comparison=pair.decision.comparison), 5)
    found = overview.days(project)
    assert (found[-1]["pairs"], found[-6]["pairs"]) == (0, 1)


def test_the_overview_says_how_far_it_is_to_a_round(project, manager, page_for):
    project.settings = {"round_pairs": 5}
    project.save()
    make_judgment(project=project)
    assert "not at this pace" in text(page_for(manager))
    for _ in range(2):
        make_pair(project=project)
    page = text(page_for(manager))
    assert "2 of 5 new sound pairs" in page
    assert "at 2 a day, enough by about" in page
    assert "Estimated from the sound pairs of the last working day: 2." in page
    for _ in range(3):
        make_pair(project=project)
    assert "enough for a round" in text(page_for(manager))


def test_pairs_a_round_has_trained_on_are_no_longer_new(project, manager, page_for):
    taken = make_pair(project=project)
    make_pair(project=project)
    training_round = TrainingRound.objects.create(
        project=project,
        number=1,
        state="succeeded",
        start=project.base,
        reference="base",
        data="all",
        policy=make_policy(project=project),
    )
    RoundPair.objects.create(training_round=training_round, pair=taken)
    assert "1 of 50 new sound pairs" in text(page_for(manager))


# --- Who waits for what ------------------------------------------------------------------


def test_nobody_waits_where_everybody_has_something_to_judge(
    project, annotator, manager, page_for
):
    make_comparison(project=project)
    assert "Nobody is waiting for anything." in text(page_for(manager))


def test_who_has_nothing_to_judge_is_named_to_managers(
    project, annotator, other_annotator, manager, reviewer, page_for
):
    """Alice has judged one and skipped the other, Bob can have the one she skipped."""
    judged = make_comparison(project=project)
    make_judgment(comparison=judged, annotator=annotator)
    skipped = make_comparison(project=project)
    make_lease(comparison=skipped, annotator=annotator, outcome="skipped")
    make_user("gone", project=project, is_active=False)
    assert overview.idle_annotators(project) == ["alice"]
    page = text(page_for(manager))
    assert "annotator has nothing to judge: alice" in page
    page = text(page_for(reviewer))
    assert "annotator has nothing to judge" in page and "alice" not in page


def test_more_stock_is_not_advised_while_the_model_is_away(
    project, annotator, manager, page_for
):
    """What stood there, while vLLM started again, was to keep more ready."""
    make_prompt(project=project)
    replica = Replica.objects.create(
        url=replica_urls()[0],
        is_managed=True,
        base=project.base,
        state=Replica.State.STARTING,
        heartbeat_at=timezone.now(),
    )
    page = text(page_for(manager))
    assert "nothing to judge: alice" in page
    assert "The model is not ready: starting" in page and "Keep more ready" not in page

    replica.wanted, replica.wanted_reason = Replica.Wanted.STOPPED, "A round trains."
    replica.save()
    page = text(page_for(manager))
    assert "The model is not ready" not in page and "Keep more ready" in page

    replica.wanted, replica.state = Replica.Wanted.RUNNING, Replica.State.READY
    replica.save()
    page = text(page_for(manager))
    assert "The model is not ready" not in page and "Keep more ready" in page


def test_an_annotator_on_a_comparison_does_not_wait(project, annotator):
    make_lease(comparison=make_comparison(project=project), annotator=annotator)
    assert overview.idle_annotators(project) == []


def test_disagreements_unchecked_pairs_and_candidates_wait(project, manager, page_for):
    split = make_judgment(project=project).comparison
    Decision.objects.create(comparison=split, outcome="split")
    make_pair(project=project, state="unchecked")
    make_policy(project=project)
    page = text(page_for(manager))
    assert "comparison waits for a reviewer" in page
    assert "pair waits for the rules’ check" in page
    assert "policy waits for a manager" in page
    assert reverse("policies", args=[project.slug]) in page


# --- Annotators ------------------------------------------------------------------------


def test_the_median_is_that_of_the_standing_judgments(project, annotator):
    """Bob's two are 3.0 and 9.0 s: their middle. Alice's three, one of which was taken
    back, are 2.5 and 60.0 s; tenths are floored."""
    bob = make_user("bob", project=project)
    for who, seconds in ((annotator, 2.59), (annotator, 60.0), (bob, 3.0), (bob, 9.0)):
        make_judgment(project=project, annotator=who, seconds=seconds)
    make_judgment(
        project=project, annotator=annotator, seconds=1.0, undone_at=timezone.now()
    )
    make_judgment(annotator=annotator, seconds=1.0)
    assert annotators.median_seconds(project) == {"alice": 31.25, "bob": 6.0}


def test_of_an_odd_number_the_median_is_the_middle_one(project, annotator):
    for seconds in (1.0, 1.0, 4.0, 8.0, 30.0):
        make_judgment(project=project, annotator=annotator, seconds=seconds)
    assert annotators.median_seconds(project) == {"alice": 4.0}


def test_agreement_with_others_counts_their_verdicts_on_the_same(
    project, annotator, other_annotator, manager, page_for
):
    """On two comparisons Alice and Bob agree once; Carol, on the first one only, agrees
    with neither: Alice is alike in 1 of 3, Carol in 0 of 2."""
    carol = make_user("carol", project=project)
    first, second = (make_comparison(project=project, quota=3) for _ in "ab")
    for who, verdict in ((annotator, "first"), (other_annotator, "first")):
        make_judgment(comparison=first, annotator=who, verdict=verdict)
    make_judgment(comparison=first, annotator=carol, verdict="tie")
    make_judgment(comparison=second, annotator=annotator, verdict="second")
    make_judgment(comparison=second, annotator=other_annotator, verdict="both_bad")
    people = {row["username"]: row for row in page_for(manager).context["people"]}
    found = {name: row["agreement"] for name, row in people.items()}
    assert (found["alice"].count, found["alice"].of) == (1, 3)
    assert (found["bob"].count, found["bob"].of) == (1, 3)
    assert (found["carol"].count, found["carol"].of) == (0, 2)
    assert (people["alice"]["first"].count, people["alice"]["first"].of) == (1, 2)


def test_an_annotator_who_has_done_nothing_is_listed_and_one_who_left_stays(
    project, annotator, manager, page_for
):
    gone = make_user("zoe", project=project)
    make_judgment(project=project, annotator=gone)
    project.memberships.filter(user=gone).delete()
    rows = page_for(manager).context["people"]
    assert [(row["username"], row["judgments"]) for row in rows] == [
        ("zoe", 1),
        ("alice", 0),
    ]


@pytest.mark.parametrize("who", ["annotator", "reviewer"])
def test_others_figures_are_seen_by_managers_alone(
    request, project, other_annotator, page_for, client, who
):
    """Alice and Bob, or Rita and Bob, have judged the same; only their own row shows."""
    user = request.getfixturevalue(who)
    for _ in range(2):
        comparison = make_comparison(project=project, quota=2)
        make_judgment(comparison=comparison, annotator=user)
        make_judgment(comparison=comparison, annotator=other_annotator)
    ago(Judgment.objects, 1)
    response = page_for(user)
    assert "people" not in response.context
    row = response.context["mine"]
    assert row["username"] == user.username and row["judgments"] == 2
    assert "bob" not in text(response)
    quality = client.get(reverse("quality", args=[project.slug]))
    if who == "annotator":
        assert quality.status_code == 403
    else:
        # What two people have in common is about the reader too.
        assert text(quality).count("bob") == 1
        names = [row["username"] for row in quality.context["bias"]["annotators"]]
        assert names == ["rita"]


@pytest.mark.parametrize("who", ["annotator", "reviewer"])
def test_your_work_does_not_tell_which_pair_was_gold(
    request, project, page_for, client, who
):
    """One ordinary pair an hour ago, then gold and an ordinary one, and one undone."""
    user = request.getfixturevalue(who)
    old = make_judgment(project=project, annotator=user)
    assert page_for(user).context["mine"]["judgments"] == 0
    ago(Judgment.objects, 1)

    def mine():
        response = page_for(user)
        hour = timezone.localtime(last_full_hour())
        shown = f">{date_format(hour, 'SHORT_DATETIME_FORMAT')}</time>"
        assert shown in text(response).partition("Your work")[2]
        row = response.context["mine"]
        return row["judgments"], row["first"].of, row["median_seconds"]

    assert mine() == (1, 1, old.seconds)
    probe = make_probe(user, gold=make_gold(project=project), after=old)
    make_judgment(comparison=probe.comparison, annotator=user, seconds=99)
    assert mine() == (1, 1, old.seconds)
    make_judgment(project=project, annotator=user, seconds=99)
    Judgment.objects.filter(pk=old.pk).update(undone_at=timezone.now())
    assert mine() == (1, 1, old.seconds)
    ago(Judgment.objects, 1)
    Judgment.objects.filter(pk=old.pk).update(
        undone_at=timezone.now() - timedelta(hours=2)
    )
    assert mine() == (2, 1, 99)


# --- Prompts nobody likes an answer of ---------------------------------------------------


def decide(prompt, outcome):
    comparison = make_comparison(prompt=prompt, state="decided")
    Decision.objects.create(comparison=comparison, outcome=outcome)
    return comparison


def test_prompts_with_most_both_bads_come_first(project, manager, page_for):
    once, twice, never = (make_prompt(text, project=project) for text in "123")
    for prompt, outcome in (
        (once, "both_bad"),
        (twice, "both_bad"),
        (twice, "both_bad"),
        (twice, "tie"),
        (never, "tie"),
    ):
        decide(prompt, outcome)
    taken_back = decide(never, "both_bad")
    taken_back.decisions.update(superseded_at=timezone.now())
    other = decide(make_prompt(project=make_project()), "both_bad")
    assert overview.disliked_prompts(project) == [
        {"prompt": twice.pk, "text": "2", "both_bad": 2, "decided": 3},
        {"prompt": once.pk, "text": "1", "both_bad": 1, "decided": 1},
    ]
    page = text(page_for(manager))
    assert "2 of 3" in page
    assert reverse("prompt", args=[project.slug, twice.pk]) in page
    assert reverse("prompt", args=[project.slug, other.prompt.pk]) not in page


def test_a_prompts_page_shows_its_answers_and_what_became_of_them(
    client, project, reviewer, annotator
):
    pair = make_pair(project=project, annotator=annotator)
    open_one = make_comparison(prompt=pair.prompt)
    decide(pair.prompt, "both_bad")
    client.force_login(reviewer)
    url = reverse("prompt", args=[project.slug, pair.prompt.pk])
    response = client.get(url)
    page = text(response)
    assert [row["answers"][0][1] for row in response.context["rows"]] == [False, True]
    assert "both bad" in page and pair.chosen.text in page
    assert open_one.a.text not in page and "alice" not in page
    elsewhere = make_prompt()
    strange = reverse("prompt", args=[project.slug, elsewhere.pk])
    assert client.get(strange).status_code == 404


def test_a_prompts_page_needs_the_same_queries_for_many_answers(
    client, project, reviewer, django_assert_num_queries
):
    prompt = make_prompt(project=project)
    decide(prompt, "tie")
    client.force_login(reviewer)
    url = reverse("prompt", args=[project.slug, prompt.pk])
    # Session, user, project, role, prompt; how many, the answers, their decisions.
    with django_assert_num_queries(9):
        client.get(url)
    for _ in range(8):
        decide(prompt, "both_bad")
    with django_assert_num_queries(9):
        client.get(url)


# --- The page as a whole -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["project", "quality", "rounds", "api_stats"])
def test_more_of_everything_needs_no_more_queries(
    client, project, manager, annotator, django_assert_max_num_queries, name
):
    def queries() -> int:
        with django_assert_max_num_queries(60) as counted:
            assert client.get(reverse(name, args=[project.slug])).status_code == 200
        return len(counted)

    def more(number) -> None:
        policy = make_policy(project=project)
        training_round = TrainingRound.objects.create(
            project=project,
            number=number,
            state="succeeded",
            start=project.base,
            reference="base",
            data="all",
            policy=policy,
        )
        pair = make_pair(project=project, annotator=annotator)
        RoundPair.objects.create(training_round=training_round, pair=pair)
        make_pair(project=project, annotator=make_user(project=project))
        comparison = make_comparison(project=project, quota=2)
        for who in (annotator, make_user(project=project)):
            make_judgment(comparison=comparison, annotator=who)
        decide(make_prompt(project=project), "both_bad")

    client.force_login(manager)
    more(1)
    few = queries()
    for number in range(2, 6):
        more(number)
    assert queries() == few


def test_the_start_of_a_round_warns_of_what_its_pairs_would_teach(
    client, project, manager, annotator
):
    """The winner was each time shown first: of four 51 to 100 %, of six 61 to 100 %."""
    client.force_login(manager)
    url = reverse("rounds", args=[project.slug])
    for _ in range(4):
        make_pair(project=project, annotator=annotator)
    assert "wins too often" not in text(client.get(url))
    for _ in range(2):
        make_pair(project=project, annotator=annotator)
    page = text(client.get(url))
    assert "The answer shown first wins too often: 100 % (61–100) of 6." in page
    assert reverse("quality", args=[project.slug]) + "#next-round" in page


def test_the_quality_page_sets_the_next_round_beside_all_verdicts(
    client, project, manager, annotator
):
    for _ in range(6):
        make_pair(project=project, annotator=annotator)
    make_judgment(project=project, annotator=annotator, verdict="second")
    client.force_login(manager)
    response = client.get(reverse("quality", args=[project.slug]))
    page = text(response)
    assert "6 new sound pairs" in page and "All 7 verdicts" in page
    first = response.context["compared"][0][2]
    assert [(share.count, share.of) for share, _beyond in first] == [(6, 6), (6, 7)]
    assert [beyond for _share, beyond in first] == [True, False]
    assert response.context["n_standing_out"] == 1


def test_what_waits_for_somebody_is_looked_up_one_by_one(project, annotator):
    """PostgreSQL read all slots there ever were for it, on each look at the page."""
    prompt = make_prompt(project=project)
    for _ in range(30):
        make_comparison(prompt=prompt, quota=3)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    ready = overview.ready_for(annotator).filter(project=project)
    assert ready.count() == 30
    assert "hashed SubPlan" not in ready.explain()

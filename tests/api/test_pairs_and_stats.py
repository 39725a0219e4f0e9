import json
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from annotation.models import Judgment
from tests.api.helpers import V1, assert_problem
from tests.factories import (
    make_comparison,
    make_completion,
    make_gold,
    make_judgment,
    make_pair,
    make_probe,
    make_prompt,
    make_user,
)

PAIRS = f"{V1}/projects/demo/pairs"
STATS = f"{V1}/projects/demo/stats"


def lines(response):
    assert response.status_code == 200
    return [json.loads(line) for line in response.getvalue().decode().splitlines()]


@pytest.fixture
def pair(project):
    return make_pair(project=project)


def test_pairs_come_as_trl_unless_asked_otherwise(rita, pair):
    response = rita.get(PAIRS)
    assert response["Content-Type"] == "application/jsonl"
    (row,) = lines(response)
    assert row["prompt"] == pair.prompt.messages
    assert row["chosen"] == [{"role": "assistant", "content": pair.chosen.text}]
    assert row["rejected"] == [{"role": "assistant", "content": pair.rejected.text}]
    (same,) = lines(rita.get(f"{PAIRS}?format=trl"))
    assert same == row


def test_pairs_come_as_openai_has_them(rita, pair):
    (row,) = lines(rita.get(f"{PAIRS}?format=openai"))
    assert row["input"]["messages"] == pair.prompt.messages
    assert row["preferred_output"] == [
        {"role": "assistant", "content": pair.chosen.text}
    ]
    assert row["non_preferred_output"] == [
        {"role": "assistant", "content": pair.rejected.text}
    ]


def test_only_sound_pairs_leave(rita, project, pair):
    make_pair(project=project, state="rejected")
    held_out = make_prompt(project=project, is_held_out=True)
    a, b = make_completion(prompt=held_out), make_completion(prompt=held_out)

    make_pair(comparison=make_comparison(prompt=held_out, a=a, b=b))
    make_pair()
    assert len(lines(rita.get(PAIRS))) == 1


def test_chinese_stays_readable(rita, project):
    prompt = make_prompt("天为什么是蓝的？", project=project)

    make_pair(comparison=make_comparison(prompt=prompt))
    assert "天为什么是蓝的？".encode() in rita.get(PAIRS).getvalue()


@pytest.mark.parametrize("name", ["jsonl", "xml", "", "TRL"])
def test_a_format_we_lack_is_400_and_says_which_there_are(rita, name):
    problem = assert_problem(rita.get(f"{PAIRS}?format={name}"), 400)
    assert f"no format “{name}”" in problem["detail"]
    assert "trl" in problem["detail"] and "openai" in problem["detail"]


@pytest.mark.parametrize("path", ["pairs", "judgments", "prompts", "dataset"])
def test_a_parameter_that_is_none_is_refused_before_more_is_handed_out(
    rita, pair, path
):
    refused = rita.get(f"{V1}/projects/demo/{path}?annotater=ann")
    problem = assert_problem(refused, 422)
    assert "no parameter “annotater”" in problem["detail"]
    assert "annotator, since" in problem["detail"]


def test_of_a_parameter_that_comes_twice_neither_is_taken(rita, pair):
    problem = assert_problem(rita.get(f"{PAIRS}?kind=judged&kind=edited"), 422)
    assert "“kind” comes twice" in problem["detail"]


def test_calls_that_export_nothing_mind_no_format(rita):
    assert rita.get(f"{STATS}?format=csv").json() == rita.get(STATS).json()


def test_the_stream_needs_no_particular_accept_header(rita, pair):
    for accept in ("application/jsonl", "application/json", "*/*", "text/plain"):
        assert len(lines(rita.get(PAIRS, headers={"Accept": accept}))) == 1


def test_pairs_cost_the_same_number_of_queries_whatever_their_number(
    rita, project, django_assert_max_num_queries
):
    for _number in range(20):
        make_pair(project=project)
    with django_assert_max_num_queries(6):
        assert len(lines(rita.get(PAIRS))) == 20


def test_stats_give_the_funnel_and_null_for_what_is_not_measured(rita, project, pair):
    make_judgment(project=project, verdict="tie")
    stats = rita.get(STATS).json()
    assert set(stats) == {"funnel", "agreement", "bias", "annotators"}
    assert stats["agreement"] is None
    assert stats["bias"]["first"]["of"] == 1
    for step in stats["funnel"]:
        assert isinstance(step["count"], int) and isinstance(step["lost"], dict)
    assert stats["funnel"][0]["count"] == 2
    assert len(stats["annotators"]) == 2
    json.dumps(stats)


def test_stats_tell_agreement_where_two_people_judged_the_same(mona, project):
    """Alike once in two. Of four verdicts three are the same: by chance
    3 · 2 / (4 · 3) = 1/2 as well, so alpha is 0."""
    for verdicts in (("first", "first"), ("first", "second")):
        comparison = make_comparison(project=project, quota=2)
        for verdict in verdicts:
            make_judgment(comparison=comparison, verdict=verdict)
    agreement = mona.get(STATS).json()["agreement"]
    assert agreement["krippendorff_alpha"]["value"] == pytest.approx(0)
    assert agreement["krippendorff_alpha"]["units"] == 2
    assert [len(pair["annotators"]) for pair in agreement["pairs"]] == [2, 2]
    assert len(agreement["weeks"]) == 1


def test_stats_tell_what_the_next_round_would_learn_beside_all_verdicts(
    rita, project, pair
):
    make_judgment(project=project, verdict="second")
    bias = rita.get(STATS).json()["bias"]
    assert bias["first"] | {"low": 0, "high": 0} == {
        "count": 1,
        "of": 2,
        "value": 0.5,
        "low": 0,
        "high": 0,
    }
    assert bias["next_round"]["pairs"] == 1
    assert bias["next_round"]["first"]["of"] == 1
    assert bias["rounds"] == [] and bias["flags"] == []


def test_stats_of_imported_pairs_alone_have_a_bias(rita, project, pair):
    pair.decision.comparison.judgments.update(undone_at="2026-01-01T00:00Z")
    bias = rita.get(STATS).json()["bias"]
    assert bias["first"]["value"] is None and bias["annotators"] == []
    assert bias["next_round"]["pairs"] == 1


def test_figures_of_single_people_are_for_managers_and_themselves(
    rita, mona, alice, project
):
    """What was always there stays for reviewers; speed and agreement are new."""
    comparison = make_comparison(project=project, quota=2)
    for user in (rita.user, alice.user):
        make_judgment(comparison=comparison, annotator=user, seconds=3.0)
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=1))
    other, own = rita.get(STATS).json()["annotators"]
    assert (other["username"], own["username"]) == ("alice", "rita")
    assert other["judgments"] == 1 and other["mean_seconds"] == 3.0
    assert other["median_seconds"] is other["agreement"] is other["first"] is None
    assert own["median_seconds"] == 3.0 and own["agreement"]["count"] == 1
    other, own = mona.get(STATS).json()["annotators"]
    assert other["median_seconds"] == 3.0 and other["first"]["of"] == 1


def test_stats_are_too_blunt_to_tell_whose_a_pseudonym_is(rita, mona, alice, project):
    judged = make_judgment(project=project, annotator=alice.user, seconds=4.26)
    at = datetime(2026, 5, 4, 13, 37, 42, 123456, tzinfo=UTC)
    Judgment.objects.filter(pk=judged.pk).update(created_at=at)
    for client, last_at, seconds in (
        (mona, at, 4.26),
        (rita, at.replace(hour=13, minute=0, second=0, microsecond=0), 4.0),
    ):
        (row,) = client.get(STATS).json()["annotators"]
        assert datetime.fromisoformat(row["last_at"]) == last_at
        assert row["mean_seconds"] == seconds


def test_the_pairs_and_judgments_of_a_name_are_for_managers(rita, mona, alice, project):
    make_pair(project=project, annotator=alice.user)
    for name in ("pairs", "judgments", "dataset"):
        url = f"{V1}/projects/demo/{name}?annotator=alice"
        assert "pseudonym" in assert_problem(rita.get(url), 422)["detail"]
        assert mona.get(url).status_code == 200
    (row,) = lines(rita.get(f"{V1}/projects/demo/judgments"))
    for name in ("pairs", "judgments"):
        url = f"{V1}/projects/demo/{name}?annotator={row['annotator']}"
        assert len(lines(rita.get(url))) == 1


def test_what_is_about_other_people_is_hidden_from_reviewers_as_on_the_pages(
    rita, mona, alice, project
):
    """Alice and a third person judged one comparison, Rita and Alice another."""
    third = make_user("third", project=project)
    for people in ((alice.user, third), (rita.user, alice.user)):
        comparison = make_comparison(project=project, quota=2)
        for who in people:
            make_judgment(comparison=comparison, annotator=who)
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=1))

    def told(client):
        stats = client.get(STATS).json()
        return (
            [set(pair["annotators"]) for pair in stats["agreement"]["pairs"]],
            {row["username"] for row in stats["bias"]["annotators"]},
            stats["agreement"]["krippendorff_alpha"]["units"],
            stats["bias"]["first"]["of"],
        )

    assert told(rita) == ([{"rita", "alice"}], {"rita"}, 2, 4)
    both, people, units, verdicts = told(mona)
    assert len(both) == 2 and people == {"alice", "rita", "third"}
    assert (units, verdicts) == (2, 4)


@pytest.mark.parametrize("whose", ["ordinary", "gold"])
def test_ones_own_figures_move_by_the_hour_whatever_was_judged(rita, project, whose):
    old = make_judgment(project=project, annotator=rita.user, seconds=4.0)
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=1))

    def told():
        stats = rita.get(STATS).json()
        (own,) = stats["annotators"]
        return own, stats["bias"]["annotators"]

    before = told()
    assert before[0]["judgments"] == before[0]["first"]["of"] == 1
    if whose == "gold":
        probe = make_probe(rita.user, gold=make_gold(project=project), after=old)
        make_judgment(comparison=probe.comparison, annotator=rita.user, seconds=9.0)
    else:
        make_judgment(project=project, annotator=rita.user, seconds=9.0)
    assert told() == before
    Judgment.objects.update(created_at=timezone.now() - timedelta(hours=1))
    own, bias = told()
    assert own["judgments"] == 2 and own["median_seconds"] == 6.5
    first = 1 if whose == "gold" else 2
    assert own["first"]["of"] == bias[0]["first"]["of"] == first


@pytest.mark.parametrize("url", [PAIRS, STATS])
def test_pairs_and_stats_are_for_reviewers(alice, charlie, nobody, url):
    assert_problem(alice.get(url), 403)
    assert_problem(charlie.get(url), 404)
    assert_problem(nobody.get(url), 401)

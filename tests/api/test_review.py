import pytest

from annotation.adjudicating import shown_to
from annotation.models import Decision, PreferencePair
from tests.acts import decide
from tests.api.helpers import V1, assert_problem
from tests.factories import make_comparison, make_judgment, make_user

QUEUE = f"{V1}/projects/demo/review"


def split(project, **fields):
    comparison = make_comparison(project=project, quota=2)
    for verdict in ("first", "second"):
        make_judgment(comparison=comparison, verdict=verdict, **fields)
    decide(comparison)
    return comparison


def test_the_queue_comes_with_what_annotators_said_and_without_who(rita, project):
    comparison = split(project, strength=3, reasons=["clear"], comment="why")
    answer = rita.get(QUEUE).json()
    assert (answer["count"], answer["next"]) == (1, None)
    (row,) = answer["results"]
    assert row["id"] == comparison.pk
    assert row["prompt"] == comparison.prompt.messages
    texts = {comparison.a_id: comparison.a.text, comparison.b_id: comparison.b.text}
    shown = [texts[pk] for pk in shown_to(rita.user, comparison)]
    assert [row["first"]["text"], row["second"]["text"]] == shown
    assert row["posterior"] is None and row["why"]
    assert {told["verdict"] for told in row["judgments"]} == {"first", "second"}
    for told in row["judgments"]:
        assert told["annotator"] is None and not told["is_yours"]
        assert (told["strength"], told["reasons"], told["comment"]) == (
            3,
            ["clear"],
            "why",
        )


def test_criteria_are_told_in_the_order_the_reviewer_sees(rita, project):
    comparison = make_comparison(project=project)
    won = {"helpful": comparison.a_id, "short": None}
    make_judgment(comparison=comparison, criteria=won, waits_for_review=True)
    decide(comparison)
    (row,) = rita.get(QUEUE).json()["results"]
    is_first = row["first"]["text"] == comparison.a.text
    (told,) = row["judgments"]
    assert told["criteria"] == {
        "helpful": "first" if is_first else "second",
        "short": "tie",
    }


def test_names_are_for_managers_who_ask(rita, mona, project):
    split(project)
    assert_problem(rita.get(f"{QUEUE}?names=1"), 403)
    (row,) = mona.get(QUEUE).json()["results"]
    assert {told["annotator"] for told in row["judgments"]} == {None}
    (row,) = mona.get(f"{QUEUE}?names=1").json()["results"]
    assert None not in {told["annotator"] for told in row["judgments"]}


def test_what_first_means_is_the_order_of_the_queue(rita, project):
    comparison = split(project)
    body = {"verdict": "first", "category": "edge_case", "note": "First is right."}
    response = rita.post(f"{QUEUE}/{comparison.pk}", body, format="json")
    assert response.status_code == 200
    told = response.json()
    assert told["comparison"] == comparison.pk
    assert {name: told[name] for name in body} == body
    first, _second = shown_to(rita.user, comparison)
    assert Decision.objects.get(method="reviewer").winner_id == first
    assert PreferencePair.objects.get().chosen_id == first
    assert rita.get(QUEUE).json()["count"] == 0
    # Sent again: the same decision.
    again = rita.post(f"{QUEUE}/{comparison.pk}", body, format="json")
    assert again.json() == told


def test_it_is_settled_once_and_taken_back_by_who_did(rita, mona, project):
    comparison = split(project)
    other = f"{QUEUE}/{comparison.pk}"
    rita.post(other, {"verdict": "tie"}, format="json")
    assert_problem(mona.post(other, {"verdict": "tie"}, format="json"), 409)
    assert rita.delete(other).status_code == 204
    assert_problem(rita.delete(other), 409)
    mona.post(other, {"verdict": "both_bad"}, format="json")
    assert_problem(rita.delete(other), 403)
    assert mona.delete(other).status_code == 204
    assert rita.get(QUEUE).json()["count"] == 1


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "verdict"),
        ({"verdict": "a"}, "verdict"),
        ({"verdict": "tie", "category": "bored"}, "category"),
        ({"verdict": "tie", "note": "x" * 10_001}, "note"),
        ({"verdict": "tie", "why": "?"}, "why"),
    ],
)
def test_a_wrong_body_names_its_field(rita, project, body, field):
    comparison = split(project)
    response = rita.post(f"{QUEUE}/{comparison.pk}", body, format="json")
    assert_problem(response, 422)
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_what_one_judged_is_for_another_reviewer(rita, mona, project):
    comparison = make_comparison(project=project, quota=2)
    for user, verdict in ((rita.user, "first"), (make_user(), "second")):
        make_judgment(comparison=comparison, annotator=user, verdict=verdict)
    decide(comparison)
    assert rita.get(QUEUE).json()["count"] == 0
    one = f"{QUEUE}/{comparison.pk}"
    assert_problem(rita.post(one, {"verdict": "tie"}, format="json"), 403)
    assert mona.post(one, {"verdict": "tie"}, format="json").status_code == 200


def test_nothing_of_another_projects(rita, project):
    comparison = make_comparison()
    one = f"{QUEUE}/{comparison.pk}"
    assert_problem(rita.post(one, {"verdict": "tie"}, format="json"), 404)
    assert_problem(rita.delete(one), 404)
    assert_problem(rita.delete(f"{QUEUE}/{10**30}"), 404)


def test_the_list_needs_the_same_queries_for_one_and_for_many(
    rita, project, django_assert_num_queries, django_assert_max_num_queries
):
    split(project)
    with django_assert_max_num_queries(12) as counted:
        rita.get(QUEUE)
    for _ in range(5):
        split(project)
    with django_assert_num_queries(len(counted)):
        rita.get(QUEUE)

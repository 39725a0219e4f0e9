import pytest
from django.utils import timezone

from annotation.checking import check_pair
from annotation.models import Comparison, LetThrough, PreferencePair
from tests.api.helpers import V1, assert_problem
from tests.factories import (
    make_flag,
    make_lease,
    make_pair,
    make_prompt,
    make_unchecked,
)

PAIRS = f"{V1}/projects/demo/pairs"
FLAGS = f"{V1}/projects/demo/flags"
GOOD = "Water boils at a hundred degrees at sea level, lower on a mountain."
OTHER = "It depends: pressure falls with height and the boiling point with it."


def checked(project, chosen=GOOD, rejected=OTHER):
    prompt = make_prompt(project=project)
    pair = make_unchecked(prompt, chosen, rejected)
    check_pair(pair)
    return pair


def test_a_pair_comes_with_its_answers_and_what_each_rule_says(rita, project):
    pair = checked(project, "Too short.")
    told = rita.get(f"{PAIRS}/{pair.pk}").json()
    assert (told["id"], told["state"], told["kind"]) == (pair.pk, "rejected", "judged")
    assert told["prompt"] == pair.prompt.messages
    assert told["chosen"] == {
        "text": "Too short.",
        "messages": [{"role": "assistant", "content": "Too short."}],
        "source": "sampled",
    }
    (objection,) = [v for v in told["verdicts"] if v["result"] != "pass"]
    assert objection["rule"] == "chosen_width" and not objection["let_through"]
    assert objection["reason"] and objection["label"] and objection["params"]
    assert told["let_throughs"] == []
    assert told["frozen_at"] is told["repaired_by"] is told["replaced_by"] is None


def test_let_through_it_trains_and_taken_back_it_does_not(rita, mona, project):
    pair = checked(project, "Too short.")
    one = f"{PAIRS}/{pair.pk}/let-through"
    response = rita.post(one, {"note": "Short was asked for."}, format="json")
    assert response.status_code == 200
    told = response.json()
    assert told["state"] == "accepted"
    (word,) = told["let_throughs"]
    assert (word["by"], word["note"]) == ("rita", "Short was asked for.")
    assert word["rules"] == ["chosen_width"] and word["taken_back_by"] is None
    assert [v["rule"] for v in told["verdicts"] if v["let_through"]] == ["chosen_width"]

    told = mona.delete(one).json()
    assert told["state"] == "rejected"
    assert told["let_throughs"][0]["taken_back_by"] == "mona"
    assert_problem(mona.delete(one), 409, code="nothing_to_do")


def test_a_repair_is_a_pair_of_its_own_that_names_the_one_it_was(rita, project):
    pair = checked(project, "Too short.")
    body = {"chosen": GOOD, "note": "Said in full."}
    response = rita.post(f"{PAIRS}/{pair.pk}/repair", body, format="json")
    assert response.status_code == 201
    made = response.json()
    assert (made["state"], made["repaired_from"]) == ("unchecked", pair.pk)
    assert (made["chosen"]["text"], made["chosen"]["source"]) == (GOOD, "edited")
    assert made["rejected"]["text"] == OTHER
    assert (made["repaired_by"], made["repair_note"]) == ("rita", "Said in full.")
    old = rita.get(f"{PAIRS}/{pair.pk}").json()
    assert old["superseded_at"] and old["replaced_by"] == made["id"]
    again = rita.post(f"{PAIRS}/{pair.pk}/repair", body, format="json")
    assert_problem(again, 409, code="nothing_to_do")


@pytest.mark.parametrize(
    "act, body, field",
    [
        ("let-through", {}, "note"),
        ("let-through", {"note": "  "}, "note"),
        ("let-through", {"note": "x" * 501}, "note"),
        ("let-through", {"note": "Fine.", "rules": []}, "rules"),
        ("repair", {}, "chosen"),
        ("repair", {"chosen": "Too short."}, "chosen"),
        ("repair", {"rejected": " "}, "rejected"),
        ("repair", {"rejected": "x" * 1_000_000}, "rejected"),
        ("repair", {"chosen": "a\0b"}, "chosen"),
        ("repair", {"chosen": GOOD, "note": "x" * 501}, "note"),
        ("repair", {"chosen": GOOD, "verdict": "pass"}, "verdict"),
    ],
)
def test_a_wrong_body_names_its_field_and_changes_nothing(
    rita, project, act, body, field
):
    pair = checked(project, "Too short.")
    response = rita.post(f"{PAIRS}/{pair.pk}/{act}", body, format="json")
    assert_problem(response, 422, field=field)
    assert PreferencePair.objects.get().state == "rejected"
    assert not LetThrough.objects.exists()


def test_a_frozen_pair_stays_as_it_is(rita, project):
    pair = checked(project)
    PreferencePair.objects.update(frozen_at=timezone.now())
    one = f"{PAIRS}/{pair.pk}"
    for response in (
        rita.post(f"{one}/let-through", {"note": "Fine."}, format="json"),
        rita.delete(f"{one}/let-through"),
        rita.post(f"{one}/repair", {"chosen": "Another."}, format="json"),
    ):
        assert_problem(response, 409, code="frozen")
    assert rita.get(one).json()["frozen_at"]


def test_nothing_of_another_projects_and_nothing_for_strangers(
    rita, alice, charlie, project
):
    others, own = make_pair(), make_pair(project=project)
    for number in (others.pk, 10**30):
        assert_problem(rita.get(f"{PAIRS}/{number}"), 404)
        body = {"note": "Fine."}
        one = f"{PAIRS}/{number}/let-through"
        assert_problem(rita.post(one, body, format="json"), 404)
        assert_problem(rita.post(f"{PAIRS}/{number}/repair", {}, format="json"), 404)
    assert_problem(alice.get(f"{PAIRS}/{own.pk}"), 403)
    assert_problem(charlie.get(f"{PAIRS}/{own.pk}"), 404)


def test_a_pair_needs_the_same_queries_whatever_was_said_of_it(
    rita, project, django_assert_num_queries, django_assert_max_num_queries
):
    pair = checked(project, "Too short.")
    with django_assert_max_num_queries(7) as counted:
        rita.get(f"{PAIRS}/{pair.pk}")
    n_queries = len(counted)  # Other requests begin the log anew.
    for note in ("One.", "Two.", "Three."):
        rita.post(f"{PAIRS}/{pair.pk}/let-through", {"note": note}, format="json")
        rita.delete(f"{PAIRS}/{pair.pk}/let-through")
    with django_assert_num_queries(n_queries):
        rita.get(f"{PAIRS}/{pair.pk}")


# --- Flags -----------------------------------------------------------------------------
def test_flags_are_listed_and_such_a_pair_is_withdrawn_once(rita, alice, project):
    lease = make_flag(project, alice.user, "unsafe", "it insults people")
    make_flag(project, alice.user, "language")
    make_flag(None, alice.user)
    answer = rita.get(FLAGS).json()
    assert [row["flag"] for row in answer["results"]] == ["language", "unsafe"]
    (row,) = rita.get(f"{FLAGS}?flag=unsafe").json()["results"]
    assert row["key"] == str(lease.key) and row["state"] == "open"
    assert (row["annotator"], row["comment"]) == ("alice", "it insults people")
    assert row["prompt"] == lease.comparison.prompt.messages
    assert (row["first"], row["second"]) == (lease.first.text, lease.second.text)
    assert_problem(rita.get(f"{FLAGS}?flag=unsave"), 400)

    one = f"{FLAGS}/{lease.key}/withdraw"
    assert rita.post(one).status_code == 204
    assert Comparison.objects.get(pk=lease.comparison_id).state == "withdrawn"
    assert_problem(rita.post(one), 409)


def test_what_nobody_flagged_is_not_withdrawn_here(rita, alice, project):
    held = make_lease(project=project, annotator=alice.user)
    elsewhere = make_flag(None, alice.user)
    for lease in (held, elsewhere):
        assert_problem(rita.post(f"{FLAGS}/{lease.key}/withdraw"), 404)
    assert_problem(alice.get(FLAGS), 403)


def test_the_list_of_flags_needs_the_same_queries_for_one_and_for_many(
    rita, alice, project, django_assert_num_queries, django_assert_max_num_queries
):
    make_flag(project, alice.user)
    with django_assert_max_num_queries(5) as counted:
        rita.get(FLAGS)
    for _ in range(5):
        make_flag(project, alice.user)
    with django_assert_num_queries(len(counted)):
        rita.get(FLAGS)

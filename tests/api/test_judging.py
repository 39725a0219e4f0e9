"""Leases, judgments, skips and undo, as a program does them."""

import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from annotation.models import Judgment, Lease, Slot
from tests.api.helpers import V1, assert_problem
from tests.factories import (
    make_comparison,
    make_lease,
    make_pair,
    make_project,
    make_user,
)

LEASES = f"{V1}/projects/demo/leases"
pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]


def judge(client, lease, **body):
    url = f"{V1}/leases/{lease['key']}/judgment"
    return client.post(url, {"verdict": "first", **body}, format="json")


def test_a_lease_looks_exactly_as_the_design_has_it(project, alice):
    comparison = make_comparison(project=project)
    response = alice.post(LEASES, {}, format="json")
    assert response.status_code == 201
    lease = response.json()
    assert set(lease) == {"key", "expires_at", "comparison"}
    assert lease["expires_at"].endswith("Z")
    shown = lease["comparison"]
    assert set(shown) == {"id", "prompt", "first", "second"}
    assert shown["prompt"] == comparison.prompt.messages
    assert set(shown["first"]) == {"id", "text"}
    texts = {shown["first"]["text"], shown["second"]["text"]}
    assert texts == {comparison.a.text, comparison.b.text}


def test_a_lease_shows_the_system_prompt_that_was_sampled_with(project, alice):
    comparison = make_comparison(project=project)
    for answer in (comparison.a, comparison.b):
        answer.sampling |= {"system_prompt": "Speak like a cook."}
        answer.save()
    lease = alice.post(LEASES, {}, format="json").json()
    assert lease["comparison"]["prompt"][0] == {
        "role": "system",
        "content": "Speak like a cook.",
    }


def test_a_pair_is_flagged_by_the_body_or_the_query(project, alice):
    for sent in ("body", "query"):
        make_comparison(project=project)
        url = f"{V1}/leases/{alice.post(LEASES).json()['key']}"
        if sent == "body":
            body = {"reason": "insults", "flag": "unsafe"}
            response = alice.delete(url, body, format="json")
        else:
            response = alice.delete(f"{url}?reason=insults&flag=unsafe")
        assert response.status_code == 204
    flagged = Lease.objects.filter(flag="unsafe", skip_reason="insults")
    assert flagged.count() == 2


def test_a_reason_in_the_address_goes_with_a_flag_in_the_body(project, alice):
    make_comparison(project=project)
    url = f"{V1}/leases/{alice.post(LEASES).json()['key']}"
    assert alice.delete(url).status_code == 204
    body = {"flag": "unsafe"}
    assert alice.delete(f"{url}?reason=insults", body, format="json").status_code == 204
    lease = Lease.objects.get()
    assert (lease.flag, lease.skip_reason) == ("unsafe", "insults")


@pytest.mark.parametrize(
    ("body", "field"), [({"flag": "boring"}, "flag"), ({"flag": "other"}, "reason")]
)
def test_a_wrong_flag_is_422_and_the_lease_stays(project, alice, body, field):
    make_comparison(project=project)
    url = f"{V1}/leases/{alice.post(LEASES).json()['key']}"
    response = alice.delete(url, body, format="json")
    assert_problem(response, 422, field=field)
    assert Lease.objects.get().outcome == ""


def test_criteria_are_taken_and_told_as_what_was_seen(project, alice):
    project.settings = {"criteria": ["helpful", "harmless"]}
    project.save()
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    given = {"helpful": "second", "harmless": "tie"}
    for status in (201, 200):
        response = judge(alice, lease, criteria=given)
        assert response.status_code == status
        assert response.json()["judgment"]["criteria"] == given


@pytest.mark.parametrize(
    "criteria", [{"kind": "first"}, {"helpful": "both_bad"}, ["helpful"], "helpful"]
)
def test_wrong_criteria_are_422_by_name(project, alice, criteria):
    project.settings = {"criteria": ["helpful"]}
    project.save()
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    problem = assert_problem(judge(alice, lease, criteria=criteria), 422)
    assert any(e["field"].startswith("criteria") for e in problem["errors"])
    assert not Judgment.objects.exists()


def test_nothing_in_a_lease_tells_the_policy_or_the_rows(project, alice):
    comparison = make_comparison(project=project)
    response = alice.post(LEASES)
    assert "policy" not in response.content.decode()
    shown = response.json()["comparison"]
    for id in (shown["id"], shown["first"]["id"], shown["second"]["id"]):
        assert uuid.UUID(id).version == 4
        assert id not in map(str, (comparison.pk, comparison.a_id, comparison.b_id))


def test_asking_again_gives_the_lease_held(project, alice):
    make_comparison(project=project)
    make_comparison(project=project)
    first = alice.post(LEASES)
    again = alice.post(LEASES)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()


def test_nothing_waiting_is_204_with_retry_after(alice):
    response = alice.post(LEASES)
    assert response.status_code == 204
    assert response.content == b""
    assert int(response["Retry-After"]) > 0


def test_strangers_get_no_lease(project, charlie, nobody):
    make_comparison(project=project)
    assert_problem(charlie.post(LEASES), 404)
    assert_problem(nobody.post(LEASES), 401)
    assert not Lease.objects.exists()


def test_a_judgment_is_201_and_brings_the_next_lease(project, alice):
    make_comparison(project=project)
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    response = judge(alice, lease, verdict="second", comment="kinder")
    assert response.status_code == 201
    answer = response.json()
    assert set(answer) == {"judgment", "next"}
    assert answer["judgment"]["verdict"] == "second"
    assert answer["judgment"]["comment"] == "kinder"
    assert answer["judgment"]["strength"] is None
    assert answer["next"]["key"] != lease["key"]
    assert answer["next"]["comparison"]["prompt"] != lease["comparison"]["prompt"]

    stored = Judgment.objects.get(pk=answer["judgment"]["id"])
    assert stored.winner.text == lease["comparison"]["second"]["text"]


def test_the_last_judgment_brings_no_next_lease(project, alice):
    make_comparison(project=project)
    assert judge(alice, alice.post(LEASES).json()).json()["next"] is None


def test_the_same_again_is_200_with_the_same_judgment(project, alice):
    make_comparison(project=project)
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    first, again = judge(alice, lease), judge(alice, lease)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert Judgment.objects.count() == 1


def test_another_body_for_the_same_lease_is_409(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    judge(alice, lease)
    assert_problem(judge(alice, lease, verdict="tie"), 409, "other_body")
    assert Judgment.objects.get().verdict == "first"


def test_expired_but_not_filled_is_kept(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    _expire(lease["key"])
    assert judge(alice, lease).status_code == 201


def test_expired_and_filled_by_another_is_410(project, alice, rita):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    _expire(lease["key"])
    other = rita.post(LEASES).json()
    assert judge(rita, other).status_code == 201
    assert_problem(judge(alice, lease), 410, "too_late")
    assert Judgment.objects.count() == 1


def _expire(key):
    past = timezone.now() - timedelta(minutes=1)
    Lease.objects.filter(key=key).update(expires_at=past)
    Slot.objects.filter(lease=key).update(expires_at=past)


@pytest.mark.parametrize(
    "body, field",
    [
        ({"verdict": "left"}, "verdict"),
        ({"verdict": None}, "verdict"),
        ({"strength": 4}, "strength"),
        ({"strength": "very"}, "strength"),
        ({"reasons": "clear"}, "reasons"),
        ({"reasons": [["clear"]]}, "reasons"),
        ({"comment": "a\0b"}, "comment"),
        ({"comment": "x" * 10_001}, "comment"),
        ({"edited": ["a"]}, "edited"),
        ({"verdict": "tie", "edited": "A better answer than either."}, "edited"),
        ({"winner": "first"}, "winner"),
    ],
)
def test_a_wrong_field_is_422_and_named(project, alice, body, field):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    problem = assert_problem(judge(alice, lease, **body), 422)
    assert problem["errors"][0]["field"].startswith(field)
    assert not Judgment.objects.exists()
    assert alice.post(LEASES).json() == lease


def test_everything_that_may_be_said_is_kept(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    said = {
        "verdict": "first",
        "strength": 3,
        "reasons": ["clear", "正确"],
        "comment": "  spaces stay ",
        "edited": "The better answer, made better still by a person.",
    }
    answer = judge(alice, lease, **said).json()["judgment"]
    assert {name: answer[name] for name in said} == said
    assert answer["created_at"].endswith("Z")


def test_somebody_elses_lease_is_404(project, alice, rita, charlie, nobody):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    url = f"{V1}/leases/{lease['key']}"
    for other in (rita, charlie):
        assert_problem(judge(other, lease), 404)
        assert_problem(other.delete(url), 404)
    assert_problem(judge(nobody, lease), 401)
    assert_problem(judge(alice, {"key": uuid.uuid4()}), 404)
    assert_problem(alice.post(f"{V1}/leases/not-a-key/judgment"), 404)


def test_who_is_a_member_no_more_may_not_judge(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    project.memberships.all().delete()
    assert_problem(judge(alice, lease), 404)


def test_a_skip_is_204_recorded_and_not_offered_again(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    url = f"{V1}/leases/{lease['key']}"
    assert (
        alice.delete(url, {"reason": "cannot tell"}, format="json").status_code == 204
    )
    assert alice.delete(url).status_code == 204
    assert alice.post(LEASES).status_code == 204
    row = Lease.objects.get()
    assert (row.outcome, row.skip_reason) == ("skipped", "cannot tell")


def test_a_skips_reason_may_stand_in_the_address(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    assert alice.delete(f"{V1}/leases/{lease['key']}?reason=unsure").status_code == 204
    assert Lease.objects.get().skip_reason == "unsure"


def test_a_judged_lease_cannot_be_skipped(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    judge(alice, lease)
    assert_problem(alice.delete(f"{V1}/leases/{lease['key']}"), 409)


def test_undo_gives_a_fresh_lease_on_the_same_comparison(project, alice):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    judgment = judge(alice, lease).json()["judgment"]
    response = alice.post(f"{V1}/judgments/{judgment['id']}/undo")
    assert response.status_code == 200
    fresh = response.json()
    assert fresh["key"] != lease["key"]
    assert fresh["comparison"]["first"]["text"] == lease["comparison"]["first"]["text"]
    assert fresh["comparison"]["id"] != lease["comparison"]["id"]
    assert judge(alice, fresh, verdict="tie").status_code == 201


def test_after_an_undo_the_old_lease_repeats_its_judgment_and_takes_nothing_else(
    project, alice
):
    make_comparison(project=project)
    lease = alice.post(LEASES).json()
    judgment = judge(alice, lease, verdict="first").json()["judgment"]
    alice.post(f"{V1}/judgments/{judgment['id']}/undo")
    again = judge(alice, lease, verdict="first")
    assert (again.status_code, again.json()["judgment"]) == (200, judgment)
    for refused in (
        judge(alice, lease, verdict="tie"),
        alice.delete(f"{V1}/leases/{lease['key']}"),
    ):
        assert_problem(refused, 409)
        assert "You undid your judgment of this pair" in refused.json()["detail"]


def test_undoing_twice_is_409(project, alice):
    make_comparison(project=project)
    judgment = judge(alice, alice.post(LEASES).json()).json()["judgment"]
    url = f"{V1}/judgments/{judgment['id']}/undo"
    alice.post(url)
    assert_problem(alice.post(url), 409, "already_undone")


def test_undo_of_what_a_round_has_frozen_is_409(project, alice):
    pair = make_pair(project=project, annotator=alice.user)
    pair.frozen_at = timezone.now()
    pair.save()
    judgment = Judgment.objects.get()
    assert_problem(alice.post(f"{V1}/judgments/{judgment.pk}/undo"), 409, "frozen")


def test_somebody_elses_judgment_is_404(project, alice, rita, charlie):
    make_comparison(project=project)
    judgment = judge(alice, alice.post(LEASES).json()).json()["judgment"]
    for other in (rita, charlie):
        assert_problem(other.post(f"{V1}/judgments/{judgment['id']}/undo"), 404)


def test_a_judgment_costs_a_bounded_number_of_queries(
    project, alice, django_assert_max_num_queries
):
    for _number in range(30):
        make_comparison(project=project)
    lease = alice.post(LEASES).json()
    with django_assert_max_num_queries(45):
        assert judge(alice, lease).status_code == 201


def test_an_annotator_of_one_project_has_nothing_from_another(alice):
    other = make_project(slug="other")
    make_comparison(project=other)
    lease = make_lease(project=other, annotator=make_user())
    assert_problem(alice.post(f"{V1}/projects/other/leases"), 404)
    assert_problem(judge(alice, {"key": lease.key}), 404)

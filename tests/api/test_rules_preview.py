"""POST rules/preview."""

import pytest

from annotation.checking import check_waiting
from tests.api.helpers import V1, assert_problem
from tests.factories import make_comparison, make_completion, make_judgment, make_pair

URL = f"{V1}/projects/demo/rules/preview"


@pytest.fixture
def pair(project):
    a = make_completion("A sentence of exactly fifty columns, counted by hand.")
    a.prompt.project = project
    a.prompt.save()
    comparison = make_comparison(a=a)
    made = make_pair(judgment=make_judgment(comparison=comparison), state="unchecked")
    check_waiting()
    return made


def test_a_manager_sees_what_other_rules_would_cost(mona, project, pair):
    wide = {"rules": {"chosen_width": {"min_columns": 60}}}
    answer = mona.post(URL, wide, format="json")
    assert answer.status_code == 200, answer.content
    found = answer.json()
    (change,) = found.pop("rules")
    assert change == {
        "rule": "chosen_width",
        "label": "Chosen answer is wide enough",
        "more": 1,
        "fewer": 0,
        "also": 0,
        "more_pairs": [pair.pk],
        "fewer_pairs": [],
    }
    assert found == {
        "looked_at": 1,
        "all": 1,
        "waiting": 0,
        "uncounted": 0,
        "accepted_now": 1,
        "accepted_then": 0,
        "more": 1,
        "fewer": 0,
    }
    project.refresh_from_db()
    assert project.settings == {}


def test_nothing_named_changes_nothing(mona, pair):
    assert mona.post(URL, {}, format="json").json()["rules"] == []
    assert (
        mona.post(URL, {"accept_unchecked": False}, format="json").json()["more"] == 0
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"rules": {"kindness": {}}}, "rules.kindness"),
        ({"rules": {"similarity": {"max_ratio": 2}}}, "rules.similarity.max_ratio"),
        ({"rules": {"refusal": {"side": []}}}, "rules.refusal.side"),
        ({"rules": {"identity": {"words": "Nova"}}}, "rules.identity.words"),
        ({"rules": []}, "rules"),
        ({"rule": {}}, "rule"),
        ({"accept_unchecked": "perhaps"}, "accept_unchecked"),
    ],
)
def test_what_is_wrong_is_422_and_named(mona, pair, body, field):
    assert_problem(mona.post(URL, body, format="json"), 422, field=field)


def test_only_managers_may_ask(rita, alice, charlie, nobody, project):
    assert_problem(rita.post(URL, {}, format="json"), 403)
    assert_problem(alice.post(URL, {}, format="json"), 403)
    assert_problem(charlie.post(URL, {}, format="json"), 404)
    assert_problem(nobody.post(URL, {}, format="json"), 401)

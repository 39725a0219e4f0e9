import pytest
from django.contrib.auth.models import Permission

from annotation.models import Project
from tests.api.helpers import V1, assert_problem
from tests.factories import (
    make_base,
    make_comparison,
    make_judgment,
    make_lease,
    make_pair,
    make_project,
    make_user,
)


@pytest.fixture
def base(monkeypatch):
    """No model lies on the disk of a test."""
    monkeypatch.setattr("inference.services.ensure_base", make_base)


def test_a_member_lists_their_projects_and_nobody_elses(alice):
    make_project(slug="other")
    answer = alice.get(f"{V1}/projects").json()
    assert answer["count"] == 1 and answer["next"] is None
    (row,) = answer["results"]
    assert (row["slug"], row["role"]) == ("demo", "annotator")


def test_a_superuser_manages_every_project(alice):
    make_project(slug="other")
    alice.user.is_superuser = True
    alice.user.save()
    rows = alice.get(f"{V1}/projects").json()["results"]
    assert {row["slug"]: row["role"] for row in rows} == {
        "demo": "manager",
        "other": "manager",
    }


def test_a_project_tells_settings_role_and_counts(project, alice):
    make_pair(project=project)
    make_judgment(project=project, verdict="tie")
    make_comparison(project=project)
    row = alice.get(f"{V1}/projects/demo").json()
    assert row["role"] == "annotator"
    assert (
        row["settings"]["quota"] == 1
        and row["settings"]["sampling"]["max_tokens"] == 256
    )
    # The pair's comparison is decided; the other judgment's stays open: no service ran.
    assert row["counts"]["prompts"] == 3
    assert row["counts"]["judgments"] == 2
    assert row["counts"]["pairs"] == 1
    assert row["counts"]["waiting"] == 2
    assert row["created_at"].endswith("Z")


def test_an_undone_judgment_counts_no_more(project, alice):
    make_comparison(project=project)

    def judgments() -> int:
        return alice.get(f"{V1}/projects/demo").json()["counts"]["judgments"]

    lease = alice.post(f"{V1}/projects/demo/leases", {}, format="json").json()
    url = f"{V1}/leases/{lease['key']}/judgment"
    made = alice.post(url, {"verdict": "first"}, format="json").json()
    assert judgments() == 1
    alice.post(f"{V1}/judgments/{made['judgment']['id']}/undo")
    assert judgments() == 0


def test_a_probe_on_the_desk_counts_as_what_waits(project, alice):
    """Waiting 0 beside a lease that one holds would tell that it is gold."""
    gold = make_comparison(project=project, purpose="gold")
    make_lease(comparison=gold, annotator=alice.user)
    row = alice.get(f"{V1}/projects/demo").json()
    assert row["counts"]["waiting"] == 1
    make_comparison(project=project)
    row = alice.get(f"{V1}/projects/demo").json()
    assert row["counts"]["waiting"] == 1


def test_instants_are_in_utc_whatever_zone_the_pages_show(alice, settings):
    settings.TIME_ZONE = "Asia/Shanghai"
    assert alice.get(f"{V1}/projects/demo").json()["created_at"].endswith("Z")


def test_no_policy_is_named_to_an_annotator(alice):
    assert "policy-" not in alice.get(f"{V1}/projects/demo").content.decode()


@pytest.mark.parametrize(
    "body",
    [
        '{"settings": {"stock": %s}}',
        '{"settings": {"rules": {"similarity": {"max_ratio": %s}}}}',
        '{"settings": {"sampling": {"temperature": %s}}}',
        '{"settings": {"strength_weights": {"1": %s}}}',
        '{"settings": {"round": {"config": {"beta": 1e400}}}}',
    ],
)
def test_a_number_that_no_column_holds_is_the_clients_error(mona, body):
    huge = body.replace("%s", "1" + 400 * "0")
    answer = mona.patch(f"{V1}/projects/demo", huge, content_type="application/json")
    assert_problem(answer, 422)


def test_strangers_see_nothing(charlie, nobody):
    assert charlie.get(f"{V1}/projects").json()["results"] == []
    assert_problem(charlie.get(f"{V1}/projects/demo"), 404)
    assert_problem(charlie.get(f"{V1}/projects/no-such"), 404)
    assert_problem(nobody.get(f"{V1}/projects/demo"), 401)


def test_listing_costs_the_same_for_many_projects(alice, django_assert_max_num_queries):
    for number in range(20):
        members = {alice.user: "reviewer"}
        make_pair(project=make_project(slug=f"p{number}", members=members))
    with django_assert_max_num_queries(3):
        assert alice.get(f"{V1}/projects").json()["count"] == 21


def test_pages_are_followed_by_next(alice):
    for number in range(3):
        make_project(slug=f"p{number}", members={alice.user: "manager"})
    first = alice.get(f"{V1}/projects?page_size=3").json()
    assert (first["count"], len(first["results"])) == (4, 3)
    assert len(alice.get(first["next"]).json()["results"]) == 1
    for page in ("0", "99", "x", "9" * 40, "-1"):
        assert_problem(alice.get(f"{V1}/projects?page={page}"), 404)


def test_staff_make_a_project_and_manage_it(charlie, base):
    charlie.user.is_staff = True
    charlie.user.save()
    body = {
        "name": "Bedtime stories",
        "slug": "stories",
        "guidelines": "Prefer the *gentle* one.",
        "settings": {"quota": 2},
    }
    response = charlie.post(f"{V1}/projects", body, format="json")
    assert response.status_code == 201, response.content
    row = response.json()
    assert (row["slug"], row["role"], row["settings"]["quota"]) == (
        "stories",
        "manager",
        2,
    )
    assert charlie.get(f"{V1}/projects/stories").json() == row


def test_a_permission_is_enough_to_make_one_and_a_slug_is_made_from_the_name(
    charlie, base
):
    permission = Permission.objects.get(codename="add_project")
    charlie.user.user_permissions.add(permission)
    response = charlie.post(
        f"{V1}/projects", {"name": "Bedtime stories"}, format="json"
    )
    assert response.status_code == 201, response.content
    assert response.json()["slug"] == "bedtime-stories"


def test_managing_one_project_does_not_let_you_make_others(mona):
    assert_problem(mona.post(f"{V1}/projects", {"name": "More"}, format="json"), 403)


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "A", "slug": "not a slug"}, "slug"),
        ({"name": "A", "settings": []}, "settings"),
        ({"name": "A", "settings": {"quota": 0}}, "quota"),
        ({"name": "A", "settings": {"sampling": {"top_p": 7}}}, "sampling.top_p"),
        ({"name": "A", "settings": {"quotas": 1}}, "quotas"),
        ({"name": "A", "nome": "B"}, "nome"),
    ],
)
def test_a_wrong_field_is_named(charlie, base, body, field):
    charlie.user.is_staff = True
    charlie.user.save()
    assert_problem(
        charlie.post(f"{V1}/projects", body, format="json"), 422, field=field
    )
    assert Project.objects.count() == 1


@pytest.mark.parametrize(
    "within",
    [
        lambda names: names,
        lambda names: {"settings": names},
        lambda names: {"settings": {"rules": names}},
    ],
)
def test_of_very_much_that_is_wrong_the_first_hundred_are_told(mona, within):
    """300,000 names fit into one body: the answer had 104 MB and took 1.6 GB to make."""
    names = {f"name{number}": 1 for number in range(3000)}
    answer = mona.patch(f"{V1}/projects/demo", within(names), format="json")
    assert len(assert_problem(answer, 422)["errors"]) == 100


def test_all_that_is_wrong_with_a_project_is_told_at_once(mona):
    body = {
        **{"name": "", "guideline": "a typo", "guidlines": "another"},
        "settings": {
            **{"stock": -1, "quotas": 1, "ask_strength": "yes"},
            "sampling": {"top_p": 7, "temperature": 0, "max_tokens": 64},
            "rules": {"similarity": {"max_ratio": 2, "on": 1}, "taste": {}},
            "round": {"preset": "none", "speed": 1},
            "strength_weights": {"1": 0, "4": 1},
            "criteria": ["x" * 41, "short", 3],
        },
    }
    problem = mona.patch(f"{V1}/projects/demo", body, format="json").json()
    assert problem["status"] == 422
    assert sorted(error["field"] for error in problem["errors"]) == sorted(
        [
            *("name", "guideline", "guidlines", "stock", "quotas", "ask_strength"),
            *("sampling.top_p", "sampling.temperature"),
            *("rules.similarity.max_ratio", "rules.similarity.on", "rules.taste"),
            *("round.preset", "round.speed", "criteria.0", "criteria.2"),
            *("strength_weights.1", "strength_weights.4"),
        ]
    )
    assert not Project.objects.get().settings.get("criteria")


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800"])
def test_characters_that_no_database_keeps_are_refused(mona, text):
    body = '{"settings": {"ask_reasons": ["' + text + '"]}}'
    url = f"{V1}/projects/demo"
    response = mona.patch(url, body, content_type="application/json")
    assert_problem(response, 422, field="settings")


@pytest.mark.parametrize("slug", ["demo", "Demo", "new"])
def test_a_slug_that_cannot_be_is_told_with_all_else(charlie, base, slug):
    """It was found out only once everything else had been mended."""
    charlie.user.is_staff = True
    charlie.user.save()
    body = {"name": "", "slug": slug, "settings": {"quota": 99}}
    response = charlie.post(f"{V1}/projects", body, format="json")
    problem = assert_problem(response, 422)
    fields = [error["field"] for error in problem["errors"]]
    assert sorted(fields) == ["name", "quota", "slug"]


def test_a_slug_in_use_is_refused(charlie, base):
    charlie.user.is_staff = True
    charlie.user.save()
    response = charlie.post(
        f"{V1}/projects", {"name": "A", "slug": "demo"}, format="json"
    )
    assert response.status_code in (409, 422)
    assert_problem(response, response.status_code)


def test_a_manager_changes_what_is_named_and_nothing_else(mona):
    mona.patch(f"{V1}/projects/demo", {"settings": {"stock": 3}}, format="json")
    response = mona.patch(
        f"{V1}/projects/demo", {"name": "New", "settings": {"quota": 3}}, format="json"
    )
    row = response.json()
    assert (row["name"], row["settings"]["quota"]) == ("New", 3)
    assert row["settings"]["stock"] == 3


def test_others_change_nothing(alice, rita, charlie):
    body = {"name": "Mine"}
    assert_problem(alice.patch(f"{V1}/projects/demo", body, format="json"), 403)
    assert_problem(rita.patch(f"{V1}/projects/demo", body, format="json"), 403)
    assert_problem(charlie.patch(f"{V1}/projects/demo", body, format="json"), 404)
    assert Project.objects.get(slug="demo").name == "Demo"


def test_a_manager_says_who_the_members_are(mona):
    make_user("nina")
    body = {"mona": "manager", "nina": "reviewer"}
    assert mona.put(f"{V1}/projects/demo/members", body, format="json").json() == body
    assert mona.get(f"{V1}/projects/demo/members").json() == body


@pytest.mark.parametrize(
    "body",
    [{"mona": "manager", "ghost": "annotator"}, {"mona": "boss"}, [], {"mona": None}],
)
def test_wrong_members_change_nothing(mona, body):
    assert_problem(mona.put(f"{V1}/projects/demo/members", body, format="json"), 422)
    assert mona.get(f"{V1}/projects/demo/members").json() == {"mona": "manager"}


def test_a_manager_who_cannot_sign_in_is_not_enough(mona):
    make_user("gone", is_active=False)
    url = f"{V1}/projects/demo/members"
    assert_problem(
        mona.put(url, {"gone": "manager"}, format="json"), 422, field="members"
    )
    assert mona.get(url).json() == {"mona": "manager"}
    both = {"gone": "manager", "mona": "manager"}
    assert mona.put(url, both, format="json").json() == both


def test_members_are_for_managers(rita, charlie):
    assert_problem(rita.get(f"{V1}/projects/demo/members"), 403)
    assert_problem(charlie.get(f"{V1}/projects/demo/members"), 404)
    assert_problem(
        rita.put(f"{V1}/projects/demo/members", {"rita": "manager"}, format="json"), 403
    )

"""Projects, their settings and members, and who gets in."""

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.core.management import call_command
from django.core.management.base import CommandError
from django.http import Http404
from django.test import RequestFactory
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation import project_settings
from annotation.access import (
    at_least,
    by_slug,
    checked_role,
    needs,
    projects_for,
    role_of,
)
from annotation.errors import MembersError, SettingsError
from annotation.models import Membership, Project, Role
from annotation.project_settings import checked, of
from annotation.projects import create_project, set_members, update_project
from inference.models import Channel
from tests.factories import make_base, make_project, make_user

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


@pytest.fixture
def base(monkeypatch):
    base = make_base()
    monkeypatch.setattr("inference.services.ensure_base", lambda: base)
    return base


def test_a_project_gets_a_channel_that_serves_the_base_and_its_manager(base):
    creator = make_user()
    project = create_project("My Project", creator, settings={"stock": 4})

    assert (project.slug, project.base) == ("my-project", base)
    assert project.channel.serving == base
    assert role_of(creator, project) == Role.MANAGER
    assert (of(project).stock, of(project).quota) == (4, 1)


def test_a_project_on_the_starter_begins_with_what_was_measured_on_it(
    tmp_path, monkeypatch
):
    """Whoever makes it may say otherwise; on another model nothing differs."""
    (tmp_path / "starter.json").write_text("{}")
    starter = make_base(name="policy-0000-57a27e25", base_model=str(tmp_path))
    monkeypatch.setattr("inference.services.ensure_base", lambda: starter)
    loss = {"sigmoid": 1.0, "sft": 1.0}

    mine = of(create_project("A", make_user(), settings={"sampling": {"top_p": 0.9}}))
    assert (mine.sampling["temperature"], mine.sampling["top_p"]) == (0.8, 0.9)
    assert mine.round == {"preset": "cumulative", "config": {"loss": loss}}
    assert mine.rules["chosen_width"] == {"on": True, "min_columns": 20}
    asked = {"sampling": {"temperature": 1.2}, "round": {"config": {"beta": 0.3}}}
    other = of(create_project("B", make_user(), settings=asked))
    assert other.sampling["temperature"] == 1.2
    assert other.round["config"] == {"beta": 0.3}

    monkeypatch.setattr("inference.services.ensure_base", make_base)
    assert create_project("C", make_user()).settings == {}


def test_the_address_of_the_page_new_project_is_no_slug(base):
    assert create_project("New", make_user()).slug.startswith("new-")
    with pytest.raises(SettingsError) as refused:
        create_project("Other", make_user(), slug="new")
    assert refused.value.field == "slug"


def test_what_a_slug_may_hold_is_told_as_it_is(base):
    assert create_project("Mine", make_user(), slug="a_b-1").slug == "a_b-1"
    with pytest.raises(SettingsError, match="hyphens and underscores"):
        create_project("Mine", make_user(), slug="a.b")


def test_slugs_are_made_of_any_name_and_never_twice(base):
    creator = make_user()
    slugs = [create_project(name, creator).slug for name in ("Same", "Same", "中文")]
    assert slugs[0] == "same"
    assert slugs[1].startswith("same-")
    assert slugs[2].startswith("project-")
    with pytest.raises(SettingsError) as refused:
        create_project("Other", creator, slug="same")
    assert refused.value.field == "slug"
    assert Channel.objects.count() == Project.objects.count() == 3


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("name", {"name": " "}),
        ("name", {"name": None}),
        ("name", {"name": "x" * 121}),
        ("name", {"name": "a\0"}),
        ("slug", {"slug": "No Slug"}),
        ("slug", {"slug": "x" * 81}),
        ("guidelines", {"guidelines": 3}),
        ("guidelines", {"guidelines": "\ud800"}),
        ("stock", {"settings": {"stock": -1}}),
        ("settings", {"settings": {"x": 1}}),
    ],
)
def test_what_makes_no_project_is_named(base, field, arguments):
    if field == "settings":
        field = "x"
    with pytest.raises(SettingsError) as refused:
        create_project(**{"name": "Name", "creator": make_user(), **arguments})
    assert refused.value.field == field
    assert not Project.objects.exists()


def test_an_update_merges_settings_and_leaves_the_rest(project):
    update_project(project, settings={"rules": {"similarity": {"max_ratio": 0.8}}})
    update_project(
        project, name="New", settings={"rules": {"similarity": {"on": False}}}
    )

    project.refresh_from_db()
    assert project.name == "New"
    assert of(project).stock == 3
    assert of(project).rules["similarity"] == {"on": False, "max_ratio": 0.8}
    assert of(project).rules["empty"] == {"on": True}


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("settings", []),
        ("stocks", {"stocks": 1}),
        ("stock", {"stock": "12"}),
        ("stock", {"stock": 1.5}),
        ("stock", {"stock": True}),
        ("stock", {"stock": float("nan")}),
        ("quota", {"quota": 0}),
        ("lease_minutes", {"lease_minutes": 0}),
        ("held_out_share", {"held_out_share": 1}),
        ("auto_deploy", {"auto_deploy": "yes"}),
        ("sampling", {"sampling": 3}),
        ("sampling.temperature", {"sampling": {"temperature": 9}}),
        ("sampling.temperature", {"sampling": {"temperature": 0}}),
        ("sampling.top_p", {"sampling": {"top_p": 0}}),
        ("sampling.heat", {"sampling": {"heat": 1}}),
        ("sampling.system_prompt", {"sampling": {"system_prompt": "a\0"}}),
        ("rules.kindness", {"rules": {"kindness": {"on": True}}}),
        ("rules.empty", {"rules": {"empty": True}}),
        ("rules.empty.on", {"rules": {"empty": {"on": 1}}}),
        ("rules.empty.max_ratio", {"rules": {"empty": {"max_ratio": 1}}}),
        ("rules.similarity.max_ratio", {"rules": {"similarity": {"max_ratio": 2}}}),
        ("round.beta", {"round": {"beta": 0.1}}),
        ("round.config", {"round": {"config": 1}}),
        ("round.preset", {"round": {"preset": "comulative"}}),
        ("round.reference", {"round": {"reference": "none"}}),
        ("round.data", {"round": {"data": "replay"}}),
        ("strength_weights.4", {"strength_weights": {"4": 1}}),
        ("strength_weights.1", {"strength_weights": {"1": 0}}),
        ("ask_reasons", {"ask_reasons": "correct"}),
        ("ask_reasons", {"ask_reasons": ["a", "a "]}),
        ("ask_reasons.0", {"ask_reasons": [3]}),
        ("criteria", {"criteria": "helpful"}),
        ("criteria", {"criteria": ["a", "a "]}),
        ("criteria", {"criteria": list("abcdefg")}),
        ("criteria.0", {"criteria": ["x" * 41]}),
    ],
)
def test_a_wrong_setting_is_named(field, given):
    with pytest.raises(SettingsError) as refused:
        checked(given)
    assert refused.value.field == field


def test_the_defaults_of_the_design_hold():
    settings = of(Project())
    assert (settings.stock, settings.quota, settings.lease_minutes) == (12, 1, 15)
    assert (settings.held_out_share, settings.auto_deploy) == (0.1, False)
    assert settings.rules["chosen_width"] == {"on": True, "min_columns": 50}
    assert settings.rules["rejected_width"] == {"on": True, "min_columns": 20}
    assert settings.rules["similarity"] == {"on": True, "max_ratio": 0.9}
    assert settings.round["preset"] == "cumulative"
    assert set(settings.strength_weights.values()) == {1.0}


NAMES = st.sampled_from([*project_settings._NAMES, "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["on", "similarity", "max_ratio", "config", "1", "top_k"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=2))
def test_setting_soup_is_taken_or_refused_and_what_is_taken_can_be_read(given):
    try:
        taken = checked(given)
    except SettingsError as refused:
        assert refused.field
    else:
        of(Project(settings=taken))
        assert checked(taken) == taken


def test_members_are_set_whole(project, annotator, manager):
    new = make_user("newcomer")
    set_members(project, {"mallory": "manager", "newcomer": "reviewer"})
    assert dict(project.memberships.values_list("user__username", "role")) == {
        "mallory": "manager",
        "newcomer": "reviewer",
    }
    assert role_of(annotator, project) is None
    assert role_of(new, project) == Role.REVIEWER


@pytest.mark.parametrize(
    ("field", "members"),
    [
        ("members", []),
        ("members", {"alice": "annotator"}),
        ("members", {}),
        ("alice", {"mallory": "manager", "alice": "owner"}),
        ("alice", {"mallory": "manager", "alice": None}),
        ("nobody", {"mallory": "manager", "nobody": "annotator"}),
        ("a\0", {"mallory": "manager", "a\0": "annotator"}),
    ],
)
def test_wrong_members_are_named_and_nothing_changes(
    project, annotator, manager, field, members
):
    with pytest.raises(MembersError) as refused:
        set_members(project, members)
    assert refused.value.field == field
    assert Membership.objects.filter(project=project).count() == 2


def test_roles_are_ordered_and_nobody_is_below_all():
    assert at_least("manager", "annotator")
    assert at_least("reviewer", "reviewer")
    assert not at_least("annotator", "reviewer")
    assert not at_least(None, "annotator")


def test_strangers_get_404_members_below_the_role_403(project, annotator):
    stranger, root = make_user(), make_user(is_superuser=True)
    gone = make_user(project=project, is_active=False)

    assert checked_role(annotator, project, Role.ANNOTATOR) == Role.ANNOTATOR
    assert checked_role(root, project, Role.MANAGER) == Role.MANAGER
    with pytest.raises(PermissionDenied):
        checked_role(annotator, project, Role.REVIEWER)
    for user in (stranger, gone, AnonymousUser()):
        with pytest.raises(Http404):
            checked_role(user, project, Role.ANNOTATOR)
    with pytest.raises(Http404):
        by_slug("nope")


def test_each_sees_their_own_projects(project, annotator):
    other = make_project()
    assert list(projects_for(annotator)) == [project]
    assert set(projects_for(make_user(is_superuser=True))) == {project, other}


def test_a_view_states_its_role_once_for_functions_and_methods(project, annotator):
    @needs(Role.ANNOTATOR)
    def page(request, slug):
        return request.project, request.role

    class Call:
        @needs(Role.MANAGER)
        def get(self, request, slug):
            raise AssertionError("not reached")

    def request_of(user):
        request = RequestFactory().get("/projects/x/")
        request.user = user
        return request

    assert page(request_of(annotator), slug=project.slug) == (project, "annotator")
    assert (page.needed_role, Call.get.needed_role) == ("annotator", "manager")
    with pytest.raises(PermissionDenied):
        Call().get(request_of(annotator), slug=project.slug)
    with pytest.raises(Http404):
        page(request_of(make_user()), slug=project.slug)
    response = page(request_of(AnonymousUser()), slug=project.slug)
    assert (response.status_code, response.url) == (302, "/login/?next=/projects/x/")


def test_the_demo_is_made_once_and_never_changed_again(
    base, settings, tmp_path, capsys, monkeypatch
):
    from django.contrib.auth import get_user_model

    settings.DATA_DIR = tmp_path
    monkeypatch.setattr(
        "annotation.management.commands.setup_demo._prompts",
        lambda: '{"prompt": "Why?"}\n{"prompt": "为什么？"}\n'.encode(),
    )
    call_command("setup_demo")
    printed = capsys.readouterr().out
    file = tmp_path / "passwords.txt"
    assert file.stat().st_mode & 0o777 == 0o600
    kept = dict(line.split(": ") for line in file.read_text().splitlines())
    assert set(kept) == {"manager", "reviewer", "annotator"}
    project = Project.objects.get(slug="demo")
    for username, password in kept.items():
        user = get_user_model().objects.get(username=username)
        assert user.check_password(password)
        assert f"{username}: {password}\n" in printed
        assert project.memberships.get(user=user).role == username
        assert user.email == ""
    own = of(project)
    assert (own.stock, own.auto_deploy, own.sampling["max_tokens"]) == (16, True, 160)
    floors = [
        own.rules[rule]["min_columns"] for rule in ("chosen_width", "rejected_width")
    ]
    assert floors == [20, 20]
    assert project.prompts.count() == 2

    project.name, project.settings = "Mine", {"stock": 1}
    project.save()
    project.memberships.filter(role="reviewer").delete()
    before = file.read_text()
    call_command("setup_demo")
    again = capsys.readouterr().out
    project.refresh_from_db()
    assert (project.name, project.settings) == ("Mine", {"stock": 1})
    assert project.memberships.count() == 2
    assert file.read_text() == before
    assert not any(password in again for password in kept.values())

    call_command("setup_demo", slug="demo-short")
    other = Project.objects.get(slug="demo-short")
    assert (other.name, other.prompts.count()) == ("Demo short", 2)
    assert other.channel != project.channel
    assert other.memberships.count() == 3
    with pytest.raises(CommandError, match="^--slug: "):
        call_command("setup_demo", slug="no spaces!")


def test_without_a_model_the_demo_says_how_to_make_one_and_keeps_its_passwords(
    tmp_path, settings, capsys
):
    settings.DATA_DIR, settings.MODELS_DIR, settings.MODEL = tmp_path, tmp_path, ""
    with pytest.raises(CommandError, match="run manage.py build_starter_model"):
        call_command("setup_demo")
    assert (tmp_path / "passwords.txt").read_text() in capsys.readouterr().out


def test_the_admin_lists_every_model_and_changes_none_that_services_keep(client):
    from django.contrib import admin
    from django.urls import reverse

    from tests.factories import make_pair

    root = make_user("root", is_staff=True, is_superuser=True)
    client.force_login(root)
    pair = make_pair()
    rows = {
        "preferencepair": pair,
        "judgment": pair.decision.comparison.judgments.get(),
        "decision": pair.decision,
        "comparison": pair.decision.comparison,
        "completion": pair.chosen,
        "prompt": pair.prompt,
        "project": pair.project,
    }
    for model in admin.site._registry:
        if model._meta.app_label == "annotation":
            name = f"admin:annotation_{model._meta.model_name}_changelist"
            assert client.get(reverse(name), {"q": "1"}).status_code == 200
    for model, row in rows.items():
        url = reverse(f"admin:annotation_{model}_change", args=[row.pk])
        assert client.get(url).status_code == 200
        if model != "project":
            assert client.post(url, {"state": "open"}).status_code == 403
    url = reverse("admin:annotation_project_change", args=[pair.project.pk])
    form = {
        "name": "X",
        "guidelines": "",
        "settings": '{"stock": 5}',
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
    }
    assert client.post(url, form).status_code == 302
    pair.project.refresh_from_db()
    assert (pair.project.name, pair.project.settings) == ("X", {}), (
        "settings change verdicts: their pages have the pairs checked again"
    )
    assert b"pages Settings and Rules" in client.get(url).content


def test_the_admin_reads_no_table_whole_for_its_filters_and_deletes_no_project(client):
    """Months and rules there are were looked for in all rows, and what a project has was
    all read before it was told that it is protected."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from django.urls import reverse

    client.force_login(make_user("root", is_staff=True, is_superuser=True))
    project = make_project()
    for model in ("lease", "judgment", "ruleverdict"):
        with CaptureQueriesContext(connection) as asked:
            url = reverse(f"admin:annotation_{model}_changelist")
            assert client.get(url).status_code == 200
        assert not [q["sql"] for q in asked if "DISTINCT" in q["sql"]]
    verdicts = client.get(url, {"rule": "similarity"})
    assert verdicts.status_code == 200 and b"contradiction" in verdicts.content
    url = reverse("admin:annotation_project_delete", args=[project.pk])
    assert client.get(url).status_code == 403

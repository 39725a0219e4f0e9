"""Who may open what: every address of the site, for every kind of user.

The addresses come from the URL conf, so one that is not in the tables below fails:
whoever adds a view says here who may use it. What a permitted call then answers is
another test's business; here it must only not be "no".
"""

from dataclasses import dataclass

import pytest
from django.conf import settings
from django.contrib import admin
from django.test import Client
from django.urls import URLPattern, get_resolver, reverse

from annotation.models import ImportJob
from tests.factories import (
    make_comparison,
    make_flag,
    make_gold,
    make_judgment,
    make_lease,
    make_pair,
    make_policy,
    make_project,
    make_user,
)
from training.models import TrainingRound

ANYBODY = "anybody"
SIGNED_IN = "signed in"
OWNER = "the annotator whose it is"
ANNOTATOR, REVIEWER, MANAGER = "annotator", "reviewer", "manager"
CREATOR = "staff, or with the permission annotation.add_project"

PAGES = {
    "home": {"GET": SIGNED_IN},
    "login": {"GET": ANYBODY, "POST": ANYBODY},
    "logout": {"POST": ANYBODY},
    "password": {"GET": SIGNED_IN, "POST": SIGNED_IN},
    "set_language": {"POST": ANYBODY},
    "livez": {"GET": ANYBODY},
    "readyz": {"GET": ANYBODY},
    "new_project": {"GET": CREATOR, "POST": CREATOR},
    "project": {"GET": ANNOTATOR},
    "compare": {"GET": ANNOTATOR},
    "ahead": {"POST": ANNOTATOR},
    "judge": {"POST": OWNER},
    "skip": {"POST": OWNER},
    "differences": {"GET": OWNER},
    "history": {"GET": ANNOTATOR},
    "undo": {"POST": OWNER},
    "last_ten": {"GET": ANNOTATOR},
    "preferences": {"GET": SIGNED_IN, "POST": SIGNED_IN},
    "flagged": {"GET": REVIEWER, "POST": REVIEWER},
    "prompt": {"GET": REVIEWER},
    "prompts": {"GET": MANAGER},
    "imports": {"GET": MANAGER, "POST": MANAGER},
    "import_job": {"GET": MANAGER},
    "import_status": {"GET": MANAGER},
    "start_import": {"POST": MANAGER},
    "cancel_import": {"POST": MANAGER},
    "import_faults": {"GET": MANAGER},
    "export": {"GET": REVIEWER},
    "export_file": {"GET": REVIEWER},
    "export_round": {"GET": REVIEWER},
    "project_settings": {"GET": MANAGER, "POST": MANAGER},
    "members": {"GET": MANAGER, "POST": MANAGER},
    "pairs": {"GET": REVIEWER},
    "pair": {"GET": REVIEWER},
    "let_through": {"POST": REVIEWER},
    "take_back": {"POST": REVIEWER},
    "repair": {"POST": REVIEWER},
    "rules": {"GET": MANAGER, "POST": MANAGER},
    "preview_rules": {"POST": MANAGER},
    "quality": {"GET": REVIEWER},
    "review": {"GET": REVIEWER},
    "settle": {"POST": REVIEWER},
    "undo_settled": {"POST": REVIEWER},
    "gold": {"GET": MANAGER, "POST": MANAGER},
    "retire_gold": {"POST": MANAGER},
    "pair_as_gold": {"POST": REVIEWER},
    "judgment_as_gold": {"POST": REVIEWER},
    "let_count": {"POST": REVIEWER},
    "export_pairs": {"GET": REVIEWER},
    "rounds": {"GET": REVIEWER, "POST": MANAGER},
    "round": {"GET": REVIEWER},
    "round_status": {"GET": REVIEWER},
    "cancel_round": {"POST": MANAGER},
    "resume_round": {"POST": MANAGER},
    "policies": {"GET": REVIEWER},
    "deploy": {"POST": MANAGER},
    "deploy_base": {"POST": MANAGER},
    "rollback": {"POST": MANAGER},
}
CALLS = {
    "schema": {"GET": ANYBODY},
    "api_docs": {"GET": ANYBODY},
    "api_projects": {"GET": SIGNED_IN, "POST": CREATOR},
    "api_project": {"GET": ANNOTATOR, "PATCH": MANAGER},
    "api_members": {"GET": MANAGER, "PUT": MANAGER},
    "api_prompts": {"GET": REVIEWER, "POST": MANAGER},
    "api_judgments": {"GET": REVIEWER},
    "api_dataset": {"GET": REVIEWER},
    "api_round_pairs": {"GET": REVIEWER},
    "api_leases": {"POST": ANNOTATOR},
    "api_lease": {"DELETE": OWNER},
    "api_judgment": {"POST": OWNER},
    "api_undo": {"POST": OWNER},
    "api_pairs": {"GET": REVIEWER, "POST": MANAGER},
    "api_pair": {"GET": REVIEWER},
    "api_let_through": {"POST": REVIEWER, "DELETE": REVIEWER},
    "api_repair": {"POST": REVIEWER},
    "api_flags": {"GET": REVIEWER},
    "api_withdraw": {"POST": REVIEWER},
    "api_rules_preview": {"POST": MANAGER},
    "api_stats": {"GET": REVIEWER},
    "api_review": {"GET": REVIEWER},
    "api_settle": {"POST": REVIEWER, "DELETE": REVIEWER},
    "api_gold": {"GET": MANAGER, "POST": MANAGER},
    "api_retire_gold": {"POST": MANAGER},
    "api_let_count": {"POST": REVIEWER},
    "api_rounds": {"GET": REVIEWER, "POST": MANAGER},
    "api_round": {"GET": REVIEWER},
    "api_metrics": {"GET": REVIEWER},
    "api_cancel": {"POST": MANAGER},
    "api_resume": {"POST": MANAGER},
    "api_policies": {"GET": REVIEWER},
    "api_deploy": {"POST": MANAGER},
    "api_rollback": {"POST": MANAGER},
}
ROUTES = PAGES | CALLS
NO_VIEW_OF_ITS_OWN = {"api_not_found"}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
CASES = [(name, method) for name, methods in ROUTES.items() for method in methods]
PEOPLE = ["anonymous", "stranger", "annotator", "reviewer", "manager", "superuser"]


def _addresses(patterns, prefix=""):
    """(name, route) of every view but the admin's, includes unfolded."""
    for entry in patterns:
        route = f"{prefix}{entry.pattern}"
        if isinstance(entry, URLPattern):
            yield entry.name, route
        elif entry.app_name != "admin":
            yield from _addresses(entry.url_patterns, route)


def test_every_address_says_who_may_use_it():
    names = {name for name, _route in _addresses(get_resolver().url_patterns)}
    unlisted = names - set(ROUTES) - NO_VIEW_OF_ITS_OWN
    assert not unlisted, f"add to tests/test_access.py who may use {unlisted}"
    assert not set(ROUTES) - names, "listed, but no such address"


def test_no_two_addresses_share_a_name():
    names = [name for name, _route in _addresses(get_resolver().url_patterns)]
    assert len(names) == len(set(names))


@dataclass
class World:
    """One project, everybody, and one of everything an address can name."""

    clients: dict
    arguments: dict

    def ask(self, who, name, method):
        arguments = self.arguments.get(name, self.arguments["of the project"])
        route = dict(_addresses(get_resolver().url_patterns))[name]
        wanted = {key: value for key, value in arguments.items() if f":{key}>" in route}
        client = self.clients[who]
        body = {} if name in PAGES else {"content_type": "application/json"}
        return getattr(client, method.lower())(reverse(name, kwargs=wanted), **body)


@pytest.fixture
def world(db, tmp_path):
    project = make_project(slug="demo")
    import_file = tmp_path / "prompts.jsonl"
    import_file.write_text('{"prompt": "Why?"}\n')
    users = {role: make_user(role, project=project, role=role) for role in PEOPLE[2:5]}
    users["stranger"] = make_user("stranger")
    users["superuser"] = make_user("superuser", is_superuser=True, is_staff=True)
    # A stranger here is at home elsewhere: membership counts by project.
    make_project(slug="elsewhere", members={users["stranger"]: "manager"})
    clients = {"anonymous": Client(raise_request_exception=True)}
    for name, user in users.items():
        clients[name] = Client()
        clients[name].force_login(user)
    make_comparison(project=project)
    pair = make_pair(project=project)
    gold = make_gold(project=project)
    judgment = make_judgment(project=project, annotator=users["annotator"])
    lease = make_lease(project=project, annotator=users["annotator"])
    flagged = make_flag(project, users["reviewer"], "broken")
    training_round = TrainingRound.objects.create(
        project=project, number=1, start=project.base, reference="base", data="all"
    )
    policy = make_policy(project=project)
    arguments = {
        "of the project": {"slug": "demo", "name": policy.name, "key": lease.key},
        "let_count": {"slug": "demo", "username": "annotator"},
        "api_let_count": {"slug": "demo", "username": "annotator"},
        "retire_gold": {"pk": gold.pk},
        "api_retire_gold": {"pk": gold.pk},
        "pair_as_gold": {"pk": pair.pk},
        "api_withdraw": {"slug": "demo", "key": flagged.key},
    }
    job = ImportJob.objects.create(
        project=project, by=users["manager"], name="x", path=str(import_file)
    )
    for name in (
        *("import_job", "import_status", "start_import"),
        *("cancel_import", "import_faults"),
    ):
        arguments[name] = {"pk": job.pk}
    for name in ("settle", "undo_settled", "api_settle"):
        arguments[name] = {"slug": "demo", "pk": judgment.comparison_id}
    for name in (
        *("pair", "let_through", "take_back", "repair"),
        *("api_pair", "api_let_through", "api_repair"),
    ):
        arguments[name] = {"slug": "demo", "pk": pair.pk}
    arguments["prompt"] = {"slug": "demo", "pk": project.prompts.first().pk}
    for name in ("undo", "api_undo", "judgment_as_gold"):
        arguments[name] = {"pk": judgment.pk}
    for name in (
        *("round", "round_status", "export_round"),
        *("cancel_round", "resume_round"),
    ):
        arguments[name] = {"pk": training_round.pk}
    for name in (
        *("api_round", "api_metrics", "api_round_pairs"),
        *("api_cancel", "api_resume"),
    ):
        arguments[name] = {"pk": training_round.pk}
    return World(clients, arguments)


def _may(who, level):
    """yes, sign in, 403 or 404: what the tables above mean for this person."""
    if level == ANYBODY:
        return "yes"
    if who == "anonymous":
        return "sign in"
    if level == SIGNED_IN:
        return "yes"
    if level == CREATOR:
        return "yes" if who == "superuser" else 403
    if level == OWNER:
        return "yes" if who == "annotator" else 404
    if who == "stranger":
        return 404
    return "yes" if PEOPLE.index(who) >= PEOPLE.index(level) else 403


@pytest.mark.parametrize("name, method", CASES)
def test_everybody_gets_what_they_may_and_nothing_else(world, name, method):
    # Those who may come last: their call may change what the others would see.
    for who in PEOPLE:
        expected = _may(who, ROUTES[name][method])
        response = world.ask(who, name, method)
        status = response.status_code
        told = f"{who} {method} {name}: {status}"
        # Back would show it after signing out; what is polled is asked for each time.
        kept = response["Cache-Control"]
        assert "private" in kept and ("no-store" in kept or "ETag" in response), told
        if expected == "sign in" and name in PAGES:
            assert status == 302 and response.url.startswith(reverse("login")), told
        elif expected == "sign in":
            assert status == 401, told
        elif expected == "yes":
            is_no = status in (401, 403, 404, 405) or status == 500
            to_login = status == 302 and response.url.startswith(reverse("login"))
            assert not is_no and (not to_login or name == "logout"), told
        else:
            assert status == expected, told


@pytest.mark.parametrize(
    "name", sorted(set(ROUTES) - {"login", "logout", "set_language"})
)
def test_other_methods_are_refused(world, name):
    who = "annotator" if OWNER in ROUTES[name].values() else "superuser"
    for method in METHODS:
        if method not in ROUTES[name]:
            assert world.ask(who, name, method).status_code == 405, f"{method} {name}"


def test_pages_that_write_want_a_csrf_token(world):
    guarded = Client(enforce_csrf_checks=True)
    guarded.force_login(make_user("carl", is_superuser=True))
    world.clients["carl"] = guarded
    for name, methods in PAGES.items():
        if "POST" in methods and name != "login":
            assert world.ask("carl", name, "POST").status_code == 403, name


def test_the_admin_is_for_staff(world):
    models = [m for m in admin.site._registry if m._meta.app_label != "auth"]
    assert models
    for model in models:
        url = reverse(
            f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist"
        )
        for who in PEOPLE[:5]:
            response = world.clients[who].get(url)
            assert response.status_code == 302, (who, url)
            assert "login" in response.url
        assert world.clients["superuser"].get(url).status_code == 200, url


def test_everything_that_needs_signing_in_sends_to_our_login():
    assert reverse(settings.LOGIN_URL) == "/login/"

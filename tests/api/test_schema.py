"""The schema is true: the API keeps to it whatever is sent (schemathesis)."""

from itertools import count, pairwise

import pytest
import schemathesis
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, given, settings
from knox.models import AuthToken
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.acts import decide
from tests.factories import (
    make_base,
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

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_the_schema_is_valid_and_without_warnings(tmp_path):
    call_command(
        "spectacular",
        validate=True,
        fail_on_warn=True,
        file=str(tmp_path / "schema.yaml"),
    )


def test_every_list_in_pages_says_how_to_turn_them(client):
    schema = client.get(
        "/api/schema", headers={"Accept": "application/vnd.oai.openapi+json"}
    ).json()
    lists = []
    for path, calls in schema["paths"].items():
        read = calls.get("get", {})
        content = read.get("responses", {}).get("200", {}).get("content", {})
        if "/Paginated" in str(content):
            names = {parameter["name"] for parameter in read["parameters"]}
            assert {"page", "page_size"} <= names, path
            assert "404" in read["responses"], path
            lists.append(path.rpartition("/")[2])
    assert sorted(lists) == ["flags", "gold", "projects", "review", "rounds"]


@pytest.fixture
def world(db, monkeypatch):
    """A project with one of everything, and a manager who may also make projects."""
    monkeypatch.setattr("inference.services.ensure_base", make_base)
    project = make_project(slug="demo")
    manager = make_user("mona", project=project, role="manager", is_staff=True)
    for _number in range(3):
        make_pair(project=project)
        make_comparison(project=project)
    judgment = make_judgment(project=project, annotator=manager)
    split = make_comparison(project=project, quota=2)
    for verdict in ("first", "second"):
        make_judgment(comparison=split, verdict=verdict)
    decide(split)
    lease = make_lease(project=project, annotator=manager)
    flagged = make_flag(project, kind="other")
    rejected = make_pair(project=project, state="rejected")
    rejected.verdicts.create(rule="similarity", result="reject", measured=0.95)
    policy = make_policy(project=project, rejected_reason="for the test")
    training_round = TrainingRound.objects.create(
        project=project, number=1, start=project.base, reference="base", data="all"
    )
    _row, token = AuthToken.objects.create(manager)
    return {
        "token": token,
        "slug": "demo",
        "key": str(lease.key),
        "name": policy.name,
        "username": "mona",
        ("gold", "id"): make_gold(project=project).pk,
        ("judgments", "id"): str(judgment.pk),
        ("rounds", "id"): training_round.pk,
        ("review", "id"): split.pk,
        ("pairs", "id"): rejected.pk,
        ("flags", "key"): str(flagged.key),
    }


@pytest.fixture
def api(world):
    # As Django's own test client does: the test's transaction outlives a request.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield schemathesis.openapi.from_wsgi("/api/schema", get_wsgi_application())
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def test_no_request_makes_the_server_fail_or_answer_against_its_schema(api, world):
    """Every other example is sent to rows that exist, the rest wherever it falls."""
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) == 41
    for operation in operations:
        _attack(operation, world)


def _attack(operation, world):
    # {name of a part in braces: the part before it}
    parts = operation.path.split("/")
    nouns = {part[1:-1]: noun for noun, part in pairwise(parts) if part[:1] == "{"}
    headers = {"Authorization": f"Bearer {world['token']}"}
    turns = count()

    @EXAMPLES
    @given(case=operation.as_strategy())
    def attack(case):
        if next(turns) % 2 == 0:
            for name in case.path_parameters or {}:
                case.path_parameters[name] = (
                    world.get((nouns[name], name)) or world[name]
                )
        response = case.call(headers=headers)
        case.validate_response(response, checks=CHECKS)

    attack()

"""Errors that every call shares: always a problem document, never a page or a 500."""

import json
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test import Client
from knox.models import AuthToken

from annotation.models import Judgment, Lease
from tests.api.helpers import V1, assert_problem
from tests.factories import make_comparison, make_lease, make_user


def test_without_a_token_it_is_401_and_says_how_to_sign_in(nobody):
    response = nobody.get(f"{V1}/projects")
    assert_problem(response, 401)
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer wrong", "Bearer a b", "Bearer \xe9\xff", "Bearer " + "x" * 5000],
)
def test_a_token_that_is_none_is_401(nobody, header):
    assert_problem(nobody.get(f"{V1}/projects", headers={"Authorization": header}), 401)


def test_a_real_token_signs_in_and_its_user_must_be_active(alice, nobody):
    _row, token = AuthToken.objects.create(alice.user)
    headers = {"Authorization": f"Bearer {token}"}
    assert nobody.get(f"{V1}/projects", headers=headers).status_code == 200

    alice.user.is_active = False
    alice.user.save()
    assert_problem(nobody.get(f"{V1}/projects", headers=headers), 401)


def test_a_token_that_has_expired_is_401(alice, nobody):
    _row, token = AuthToken.objects.create(alice.user, expiry=timedelta(seconds=-1))
    AuthToken.objects.create(alice.user)
    headers = {"Authorization": f"Bearer {token}"}
    assert_problem(nobody.get(f"{V1}/projects", headers=headers), 401)


def test_a_session_without_a_csrf_token_may_read_and_not_write(project):
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user("sam", project=project, role="manager"))
    assert client.get(f"{V1}/projects/demo").status_code == 200
    assert_problem(client.post(f"{V1}/projects/demo/leases"), 403)


@pytest.mark.parametrize(
    "path", ["/api/", "/api/v1", "/api/v1/nothing", "/api/v2/projects"]
)
def test_an_address_that_is_none_is_404(nobody, path):
    assert_problem(nobody.get(path), 404)


def test_a_method_that_a_call_lacks_is_405_and_says_which_it_has(alice):
    response = alice.put(f"{V1}/projects/demo/leases")
    assert_problem(response, 405)
    assert response["Allow"] == "POST, OPTIONS"


def test_a_body_that_is_no_json_is_400(mona):
    response = mona.patch(f"{V1}/projects/demo", "{", content_type="application/json")
    assert_problem(response, 400)


def test_json_nested_without_end_is_400(mona):
    body = "[" * 100_000
    response = mona.patch(f"{V1}/projects/demo", body, content_type="application/json")
    assert_problem(response, 400)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"verdict": "first", "verdict": "second"}', "verdict"),
        ('{"verdict": "first", "edited": {"text": "a", "text": "b"}}', "text"),
    ],
)
def test_a_key_that_comes_twice_is_400_and_named(alice, body, key):
    lease = make_lease(annotator=alice.user)
    url = f"{V1}/leases/{lease.key}/judgment"
    response = alice.post(url, body, content_type="application/json")
    assert_problem(response, 400)
    assert f"“{key}” appears twice" in response.json()["detail"]
    assert not Judgment.objects.exists()


def test_a_body_that_is_not_utf8_is_400(mona):
    response = mona.patch(
        f"{V1}/projects/demo", b'{"name": "\xff"}', content_type="application/json"
    )
    assert_problem(response, 400)


def test_a_body_of_another_type_is_415(mona):
    response = mona.patch(f"{V1}/projects/demo", "<a/>", content_type="application/xml")
    assert_problem(response, 415)


def test_an_answer_of_another_type_than_json_is_406(mona):
    response = mona.get(f"{V1}/projects", headers={"Accept": "application/xml"})
    assert_problem(response, 406)


@pytest.mark.parametrize("body", [[], "text", 3, None, [{"verdict": "first"}]])
def test_a_body_that_is_no_object_is_422(alice, body):
    lease = make_lease(annotator=alice.user)
    url = f"{V1}/leases/{lease.key}/judgment"
    response = alice.post(url, json.dumps(body), content_type="application/json")
    assert_problem(response, 422)


def test_a_body_larger_than_the_limit_is_413(mona, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    response = mona.patch(f"{V1}/projects/demo", {"name": "x" * 200}, format="json")
    assert_problem(response, 413)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "projects"),
        ("patch", "projects/demo"),
        ("put", "projects/demo/members"),
        ("post", "projects/demo/rounds"),
        ("delete", "leases/{key}"),
        ("post", "leases/{key}/judgment"),
    ],
)
def test_a_body_in_pieces_is_411_rather_than_taken_for_empty(
    mona, project, method, path
):
    mona.user.is_staff = True
    mona.user.save()
    lease = make_lease(project=project, annotator=mona.user)
    response = getattr(mona, method)(
        f"{V1}/{path.format(key=lease.key)}",
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
    )
    assert_problem(response, 411, "length_required")
    lease.refresh_from_db()
    assert lease.outcome == Lease.Outcome.ACTIVE


def test_what_reads_no_body_does_not_mind_how_it_comes(mona, project):
    make_comparison(project=project)
    headers = {"Transfer-Encoding": "chunked"}
    response = mona.post(f"{V1}/projects/demo/leases", headers=headers)
    assert response.status_code == 201


def test_a_fault_of_ours_is_a_500_that_tells_nothing(mona, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr("annotation.figures.of", fail)
    mona.raise_request_exception = False
    response = mona.get(f"{V1}/projects/demo/stats")
    assert_problem(response, 500)
    assert b"42" not in response.content


@pytest.mark.parametrize(
    ("error", "status"), [(OperationalError("gone"), 503), (RuntimeError("why"), 500)]
)
def test_a_page_without_its_database_may_be_asked_for_again(
    client, mona, monkeypatch, error, status
):
    def fail(request):
        raise error

    monkeypatch.setattr("annotation.views.home.projects_for", fail)
    client.force_login(mona.user)
    client.raise_request_exception = False
    response = client.get("/")
    assert response.status_code == status
    assert response.headers.get("Retry-After") == ("2" if status == 503 else None)
    assert b"Something broke on our side" in response.content


def test_problems_come_in_the_language_asked_for(nobody):
    english = nobody.get(f"{V1}/projects").json()["detail"]
    chinese = nobody.get(f"{V1}/projects", headers={"Accept-Language": "zh-hans"})
    assert chinese.json()["detail"] != english


HALF = "\\ud800"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "leases/KEY/judgment", '{"verdict": "HALF"}'),
        ("post", "leases/KEY/judgment", '{"HALF": 1}'),
        ("post", "leases/KEY/judgment", '{"verdict": "first", "reasons": ["HALF"]}'),
        (
            "post",
            "leases/KEY/judgment",
            '{"verdict": "first", "criteria": {"HALF": "first"}}',
        ),
        ("delete", "leases/KEY", '{"flag": "HALF"}'),
        ("patch", "projects/demo", '{"settings": {"HALF": 1}}'),
        ("put", "projects/demo/members", '{"HALF": "manager"}'),
        ("put", "projects/demo/members", '{"mona": "HALF"}'),
        ("post", "projects/demo/rules/preview", '{"rules": {"HALF": {}}}'),
        ("post", "projects/demo/rounds", '{"preset": "HALF"}'),
        ("post", "projects/demo/rounds", '{"config": {"HALF": 1}}'),
        ("post", "projects", '{"name": "q", "slug": "HALF"}'),
    ],
)
def test_half_a_surrogate_is_refused_and_no_fault_of_ours(mona, method, path, body):
    """JSON can say it and UTF-8 cannot, and a problem names what was sent."""
    mona.user.is_staff = True
    mona.user.save()
    lease = make_lease(annotator=mona.user, project=mona.user.projects.get())
    url = f"{V1}/{path}".replace("KEY", str(lease.key))
    response = getattr(mona, method)(
        url, body.replace("HALF", HALF), content_type="application/json"
    )
    assert_problem(response, 422)


def test_a_field_named_by_half_a_surrogate_is_told_by_its_escape(mona):
    """In the list of fields and in the sentence about it."""
    lease = make_lease(annotator=mona.user, project=mona.user.projects.get())
    response = mona.post(
        f"{V1}/leases/{lease.key}/judgment",
        f'{{"{HALF}": 1}}',
        content_type="application/json",
    )
    problem = assert_problem(response, 422, field=HALF)
    assert problem["detail"].startswith(HALF)

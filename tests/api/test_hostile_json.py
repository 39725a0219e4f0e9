"""Bodies made to keep the server busy, or to make it fail."""

import time

import pytest

from annotation.files.faults import BadRow
from annotation.files.tables import parsed
from annotation.models import Judgment
from tests.api.helpers import V1, assert_problem
from tests.factories import make_lease, make_policy

pytestmark = pytest.mark.django_db

DOUBLED = "{" + ",".join(f'"k{n}":0' for n in range(60_000)) + ',"z":0,"z":0}'
"""700 kB. To count each name by itself took a minute and a half."""


def test_a_key_that_comes_twice_among_very_many_is_found_at_once(alice):
    lease = make_lease(annotator=alice.user)
    began = time.monotonic()
    url = f"{V1}/leases/{lease.key}/judgment"
    response = alice.post(url, DOUBLED, content_type="application/json")
    assert time.monotonic() - began < 10
    assert_problem(response, 400)
    assert "“z” appears twice" in response.json()["detail"]
    assert not Judgment.objects.exists()


def test_so_it_is_on_a_line_of_a_file():
    began = time.monotonic()
    with pytest.raises(BadRow, match="“z” appears twice"):
        parsed(DOUBLED)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "nested", ['{"a": ' * 500 + "1" + "}" * 500, "[" * 500 + "]" * 500]
)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("patch", "projects/demo", '{"settings": {"round": {"config": %s}}}'),
        ("post", "projects/demo/rules/preview", '{"rules": %s}'),
        ("post", "projects/demo/rounds", '{"config": {"loss": %s}}'),
    ],
)
def test_json_nested_deeper_than_can_be_checked_is_400(
    mona, method, path, body, nested
):
    call = getattr(mona, method)
    response = call(f"{V1}/{path}", body % nested, content_type="application/json")
    assert_problem(response, 400)
    assert "nested too deeply" in response.json()["detail"]


@pytest.mark.parametrize("body", ["{", '{"typo": 1}'])
def test_a_bad_body_never_tells_that_somebody_elses_policy_exists(charlie, body):
    answers = [
        charlie.post(
            f"{V1}/policies/{name}/deploy", body, content_type="application/json"
        )
        for name in (make_policy().name, "policy-0001-00000000")
    ]
    assert answers[0].status_code in (400, 422)
    assert answers[0].json() == answers[1].json()

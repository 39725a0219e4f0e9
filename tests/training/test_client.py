"""The client's manners: what it repeats, what it does not, what it tells.

Against a scripted transport; tests/api/test_client_live.py talks to the real server.
"""

import httpx
import pytest

from training.client import Client, Lease, Metrics, ProblemError, Wait

LEASE = {
    "key": "6a1c2b7e-0000-4000-8000-000000000001",
    "expires_at": "2026-11-21T09:00:00Z",
    "comparison": {
        "id": "6a1c2b7e-0000-4000-8000-000000000002",
        "prompt": [{"role": "user", "content": "Why?"}],
        "first": {"id": "a", "text": "Because."},
        "second": {"id": "b", "text": "Who knows."},
    },
}
JUDGMENT = {"id": "j", "verdict": "first"}


class Script:
    """Answers in order; an exception class in it breaks the connection that way."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, type):
            raise answer("broken", request=request)
        return answer

    def client(self, **options):
        return Client(
            "http://tiebreak.test/",
            "secret",
            transport=httpx.MockTransport(self),
            sleep=self.pauses.append,
            **options,
        )


def ok(body, status=200):
    return httpx.Response(status, json=body)


def test_every_call_carries_the_token():
    script = Script(
        ok(
            {
                "slug": "demo",
                "name": "D",
                "role": "manager",
                "settings": {},
                "counts": {},
            }
        )
    )
    project = script.client().project("demo")
    assert script.requests[0].headers["Authorization"] == "Bearer secret"
    assert script.requests[0].url == "http://tiebreak.test/api/v1/projects/demo"
    assert project.role == "manager"


def test_a_judgment_is_sent_again_with_the_same_key_when_its_answer_is_lost():
    script = Script(httpx.ReadTimeout, ok({"judgment": JUDGMENT, "next": None}, 200))
    submitted = script.client().judge(Lease.from_json(LEASE), "first")
    first, second = script.requests
    assert first.url == second.url and first.content == second.content
    assert submitted.is_replay and submitted.next is None


def test_a_round_is_not_started_twice_when_its_answer_is_lost():
    script = Script(httpx.ReadTimeout)
    with pytest.raises(httpx.ReadTimeout):
        script.client().start_round("demo")
    assert len(script.requests) == 1


def test_any_call_is_repeated_when_the_server_was_not_reached():
    row = {"id": 1, "project": "demo", "number": 1, "state": "queued", "pairs": 2,
           "progress": {}, "policy": None, "error": None}  # fmt: skip
    script = Script(httpx.ConnectError, httpx.ConnectError, ok(row, 201))
    assert script.client().start_round("demo").id == 1
    assert script.pauses == [0.2, 0.4]


def test_a_503_is_waited_out_for_as_long_as_it_asks():
    script = Script(
        httpx.Response(503, headers={"Retry-After": "3"}),
        ok({"count": 0, "next": None, "results": []}),
    )
    assert list(script.client().projects()) == []
    assert script.pauses == [3.0]


def test_patience_ends():
    """Pauses 0.2 + 0.4 + 0.8 + 1.6 = 3.0 s, then the fifth answer counts."""
    script = Script(*[httpx.Response(503, json={"detail": "away"}) for _ in range(5)])
    with pytest.raises(ProblemError, match="503: away"):
        script.client(patience=3.0).project("demo")
    assert sum(script.pauses) == pytest.approx(3.0)


def test_nothing_waiting_says_when_to_ask_again():
    script = Script(httpx.Response(204, headers={"Retry-After": "5"}))
    assert script.client().take_lease("demo") == Wait(5.0)


def test_pages_are_followed_to_the_end():
    row = {"id": 1, "project": "demo", "number": 1, "state": "failed", "pairs": 2,
           "progress": {}, "policy": None, "error": "x", "from_the_future": 1}  # fmt: skip
    script = Script(
        ok(
            {
                "count": 2,
                "next": "http://tiebreak.test/api/v1/projects/demo/rounds?page=2",
                "results": [row],
            }
        ),
        ok({"count": 2, "next": None, "results": [row | {"id": 2}]}),
    )
    assert [found.id for found in script.client().rounds("demo")] == [1, 2]
    assert script.requests[1].url.params["page"] == "2"


def test_a_problem_is_told_in_its_words():
    document = {"status": 422, "detail": "verdict: wrong", "code": "invalid"}
    script = Script(httpx.Response(422, json=document))
    with pytest.raises(ProblemError, match="verdict: wrong") as caught:
        script.client().judge(Lease.from_json(LEASE), "sideways")
    assert caught.value.code == "invalid" and caught.value.problem == document


def test_an_answer_that_is_no_json_is_a_problem_too():
    script = Script(httpx.Response(502, text="<h1>Bad gateway</h1>"))
    with pytest.raises(ProblemError, match="502"):
        script.client().stats("demo")


def test_a_recent_metric_is_the_mean_of_its_last_values():
    metrics = Metrics([1, 2, 3, 4], {"loss": [9.0, 0.5, None, 0.25]})
    assert metrics.recent("loss", steps=2) == 0.375
    assert metrics.recent("rewards/margins") is None

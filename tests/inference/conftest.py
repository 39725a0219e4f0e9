"""Fixtures of the inference tests."""

import json
from pathlib import Path

import pytest

from inference import supervisor as supervisor_module
from inference.base import ensure_base
from inference.models import Replica
from inference.rendering_check import CHATS
from inference.supervisor import StopRequest, Supervisor
from tests.inference.fake_vllm import FakeVLLM
from tests.inference.small_files import write_base
from tests.inference.stub_server import stub
from tests.vllm_server import tiny_model, vllm, vllm_session

__all__ = ["stub", "tiny_model", "vllm", "vllm_session"]


@pytest.fixture
def base(settings, tmp_path):
    """The base of a few bytes, in a data folder of its own."""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir()
    settings.POLICIES_DIR = settings.DATA_DIR / "policies"
    settings.MODEL = str(write_base(tmp_path / "base"))
    return ensure_base()


# --- run_vllm's looks, with a stand-in for the vLLM process -----------------------
class Clock:
    """Time passes when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class FakeProcess:
    started = []

    def __init__(self, base, port):
        self.status = None
        self.stopped = []
        self.killed = self.is_bounded = False
        self.started.append(self)

    def age(self):
        return 12.0

    def bound_log(self):
        self.is_bounded = True

    def exit_status(self):
        return self.status

    def last_words(self):
        return "OSError: no room"

    def stop(self, while_waiting):
        """Asks a few times, as if each took a second."""
        self.stopped = [while_waiting() for _ in range(4)]

    def kill(self):
        self.killed = True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(supervisor_module, "time", clock)
    return clock


@pytest.fixture
def fake(base, settings, monkeypatch):
    fake = FakeVLLM(base)
    fake.is_up = False
    fake.on_health = lambda body: (200, "") if fake.is_up else (503, "")
    settings.VLLM_URLS = []
    settings.VLLM_PORT = int(fake.url.rsplit(":", 1)[1])
    monkeypatch.setattr(supervisor_module, "Server", FakeProcess)
    FakeProcess.started = []
    # What the trainer renders: as the stub does.
    remember_renderings(settings, [[1, 2, 3]] * len(CHATS))
    yield fake
    fake.stub.close()


def remember_renderings(settings, renderings):
    from inference.tending import _fingerprint

    folder = settings.DATA_DIR / "renderings"
    folder.mkdir(exist_ok=True)
    file = folder / f"{_fingerprint(Path(settings.MODEL))}.json"
    file.write_text(json.dumps(renderings))


@pytest.fixture
def look(fake, base, clock):
    """look(): a second passes, one look; the row as it then is."""
    supervisor = Supervisor(fake.url, base, True, StopRequest())

    def step(seconds=5.0):
        clock.now += seconds
        supervisor.look()
        return Replica.objects.get()

    step.supervisor = supervisor
    yield step
    supervisor.close()

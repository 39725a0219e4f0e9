"""run_vllm's decisions, look by look, with a stand-in for the vLLM process.

The stand-in is a stub HTTP server that pretends to be started and to die; that real
processes start, die and leave nothing behind is in test_real_vllm.py.
"""

import tempfile
import threading
import time
from pathlib import Path

import pytest
from django.db import connections
from django.utils import translation

from inference import server as server_module
from inference import supervisor as supervisor_module
from inference.errors import InferenceError
from inference.models import Replica
from inference.policies import deploy_policy, register_policy
from inference.rendering_check import CHATS
from inference.services import create_channel
from inference.supervisor import StopRequest, Supervisor, supervise
from inference.tending import RenderingCheck
from tests.inference.conftest import FakeProcess, remember_renderings
from tests.inference.fake_vllm import FakeFleet
from tests.inference.small_files import write_adapter

pytestmark = pytest.mark.django_db


def test_it_starts_and_is_ready_once_the_server_answers(look, fake):
    row = look()
    assert (row.state, len(FakeProcess.started)) == ("starting", 1)
    row = look()
    assert (row.state, row.detail) == ("starting", "starting: 12 s")
    fake.is_up = True
    assert look().state == "ready"
    assert FakeProcess.started[
        0
    ].is_bounded  # its log, which it writes for as long as it runs
    (warm_up,) = fake.asked("/v1/chat/completions")
    assert warm_up["logprobs"] is True  # the slow first request is ours


def test_any_exit_is_a_death_and_it_is_started_again_ever_later(look, fake, clock):
    """Waits: none after the first death, then 2, then 4 seconds."""
    look()
    FakeProcess.started[0].status = 0  # as when vLLM's engine dies
    row = look()
    assert (row.state, row.detail) == (
        "failed",
        "vLLM died (status 0): OSError: no room",
    )
    assert FakeProcess.started[0].killed
    look(0.1)
    for count, wait in ((2, 2.0), (3, 4.0)):
        assert len(FakeProcess.started) == count
        FakeProcess.started[-1].status = -9
        assert look(0.1).detail == "vLLM died (signal 9)"
        look(wait - 0.1)
        assert len(FakeProcess.started) == count
        look(0.2)
    assert len(FakeProcess.started) == 4


def test_stopped_when_wanted_and_started_again_when_wanted(look, fake):
    fake.is_up = True
    look()
    assert look().state == "ready"
    Replica.objects.update(wanted="stopped", wanted_reason="round 3 trains")
    row = look()
    assert (row.state, row.detail) == ("stopped", "round 3 trains")
    assert FakeProcess.started[0].stopped
    look()
    assert len(FakeProcess.started) == 1
    Replica.objects.update(wanted="running")
    assert look().state == "starting"
    assert len(FakeProcess.started) == 2


def test_one_that_is_still_starting_is_stopped_by_killing_it(look, fake):
    look()
    Replica.objects.update(wanted="stopped")
    assert look().state == "stopped"
    process = FakeProcess.started[0]
    assert (process.killed, process.stopped) == (True, [])


def metrics(*running):
    """/metrics, look by look."""
    counts = list(running)

    def answer(body):
        lines = ["vllm:num_requests_waiting 0.0"]
        lines.append(f"vllm:num_requests_running {counts.pop(0)}.0")
        return 200, "\n".join(lines)

    return answer


def test_it_is_patient_while_answers_run_and_not_when_they_are_done(look, fake):
    fake.is_up = True
    look(), look()
    fake.on_metrics = metrics(2, 1, 0, 0)
    Replica.objects.update(wanted="stopped")
    look()
    assert FakeProcess.started[0].stopped == [False, False, False, True]


def test_a_second_request_to_end_is_a_hurry(look, fake):
    fake.is_up = True
    look(), look()
    fake.on_metrics = metrics(1, 1, 1, 1)
    look.supervisor.stop.count = 2
    Replica.objects.update(wanted="stopped")
    look()
    assert FakeProcess.started[0].stopped[0] is True


def test_a_server_that_does_not_start_in_time_is_started_again(look, fake, settings):
    settings.VLLM_START_TIMEOUT = 11
    look()
    row = look()
    assert row.state == "failed"
    assert FakeProcess.started[0].killed


def test_a_server_that_stops_answering_is_killed_after_a_minute(look, fake):
    fake.is_up = True
    look()
    assert look().state == "ready"
    fake.is_up = False
    assert look().detail == "not answering"
    look(50)
    assert not FakeProcess.started[0].killed
    assert look(20).detail == "vLLM has not answered for 60 s"
    assert FakeProcess.started[0].killed


def test_a_port_that_is_taken_is_said_and_tried_again(look, fake, monkeypatch):
    def taken(base, port):
        raise InferenceError("Port 8001 is taken")

    monkeypatch.setattr(supervisor_module, "Server", taken)
    row = look()
    assert (row.state, row.detail) == ("failed", "Port 8001 is taken")
    monkeypatch.setattr(supervisor_module, "Server", FakeProcess)
    assert look().state == "starting"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_base_that_was_cut_off_is_said_and_tried_again(
    look, fake, settings, monkeypatch, tmp_path, file
):
    """And leaves nothing behind, however often it is tried."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "for sockets"))
    Path(tempfile.gettempdir()).mkdir()
    monkeypatch.setattr(supervisor_module, "Server", server_module.Server)
    monkeypatch.setattr(server_module, "_check_port", lambda port: None)
    path = Path(settings.MODEL) / file
    path.write_bytes(path.read_bytes()[:20])
    row = look()
    assert row.state == "failed"
    assert row.detail.startswith(f"{file} of the base model cannot be read: ")
    assert look.supervisor.server is None
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_another_model_on_the_port_is_not_ours(look, fake, base):
    fake.is_up = True
    fake.base = type(base)(name="policy-0000-ffffffff", base_model="elsewhere")
    look()
    row = look()
    assert row.state == "starting"
    assert f"not {base.name}" in row.detail


def test_a_row_that_was_deleted_is_made_again(look, fake):
    fake.is_up = True
    look()
    assert look().state == "ready"
    Replica.objects.all().delete()
    assert look().state == "ready"


def test_a_rendering_that_differs_is_said_loudly_though_it_serves(
    fake, base, settings, caplog, clock
):
    renderings = [[1, 2, 3]] * len(CHATS)
    renderings[1] = [1, 2, 9]
    remember_renderings(settings, renderings)
    supervisor = Supervisor(fake.url, base, True, StopRequest())
    fake.is_up = True
    for _ in range(2):
        clock.now += 5
        supervisor.look()
    row = Replica.objects.get()
    assert row.state == "ready"
    assert "怎样才能睡得更好" in row.warning and "[1, 2, 9]" in row.warning
    assert "render the chat" in caplog.text
    supervisor.close()


def test_a_chat_that_both_templates_refuse_is_no_difference(fake, base, settings):
    remember_renderings(settings, [None] * len(CHATS))
    fake.on_tokenize = lambda body: (400, {"error": {"message": "no system role"}})
    from pathlib import Path

    from inference.replicas import client_of

    check = RenderingCheck(Path(settings.MODEL))
    assert check.difference(client_of(fake.url)) == ""
    fake.on_tokenize = lambda body: (200, {"tokens": [1]})
    assert "refused" in check.difference(client_of(fake.url))


def test_servers_of_vllm_urls_are_watched_and_get_their_adapters(
    fake, base, settings, tmp_path, clock
):
    settings.VLLM_URLS = [fake.url]
    fake.is_up = True
    channel = create_channel("demo")
    folder = write_adapter(tmp_path / "run", tmp_path / "base")
    policy = register_policy(channel, base, folder)
    deploy_policy(policy)
    fake.adapters.clear()
    supervisor = Supervisor(fake.url, base, False, StopRequest())
    supervisor.look()
    assert Replica.objects.get().state == "ready"
    assert fake.adapters.keys() == {policy.name}
    fake.adapters.clear()  # somebody restarted it
    clock.now += 5
    supervisor.look()
    assert fake.adapters.keys() == {policy.name}
    fake.is_up = False
    clock.now += 5
    supervisor.look()
    assert Replica.objects.get().detail == "not answering"
    assert FakeProcess.started == []
    supervisor.close()


@pytest.mark.django_db(transaction=True)
def test_servers_that_hang_make_no_other_ones_heartbeat_late(base, settings):
    fleet = FakeFleet(settings, base, count=3)
    Replica.objects.update(state="unknown", heartbeat_at=None)
    remember_renderings(settings, [[1, 2, 3]] * len(CHATS))
    released, stop = threading.Event(), StopRequest()
    for server in fleet[:2]:
        server.on_models = lambda body: released.wait(60) and (500, "")

    def run():
        try:
            supervise(base, stop)
        finally:
            connections.close_all()

    running = threading.Thread(target=run)
    running.start()
    try:
        until = time.monotonic() + supervisor_module.ANSWER_WITHIN - 5
        healthy = Replica.objects.filter(url=fleet[2].url, state="ready")
        while not healthy.exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert healthy.exists()
    finally:
        stop()
        released.set()
        running.join()
        fleet.close()


@pytest.mark.django_db(transaction=True)
def test_every_server_is_noted_in_english_whatever_the_sites_language(base, settings):
    settings.LANGUAGE_CODE = "zh-hans"
    settings.VLLM_URLS = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    remember_renderings(settings, [[1, 2, 3]] * len(CHATS))
    stop = StopRequest()

    def run():
        try:
            with translation.override(None):
                supervise(base, stop)
        finally:
            connections.close_all()

    running = threading.Thread(target=run)
    running.start()
    try:
        until = time.monotonic() + 20
        while Replica.objects.exclude(detail="").count() < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        stop()
        running.join()
    noted = Replica.objects.values_list("detail", flat=True)
    assert list(noted) == ["not reachable"] * 2


@pytest.mark.django_db(transaction=True)
def test_a_fault_in_one_servers_thread_ends_run_vllm(base, settings, monkeypatch):
    """Then it is started again, instead of leaving that server to nobody."""
    fleet = FakeFleet(settings, base, count=2)
    remember_renderings(settings, [[1, 2, 3]] * len(CHATS))

    def look(supervisor):
        if supervisor.client.url == fleet[1].url:
            raise ZeroDivisionError

    monkeypatch.setattr(Supervisor, "look", look)
    with pytest.raises(ZeroDivisionError):
        supervise(base, StopRequest())
    fleet.close()

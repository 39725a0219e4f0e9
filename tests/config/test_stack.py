"""The supervisor: what dies starts again, and nothing outlives it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.config.conftest import Running, parent_of
from tests.processes import is_alive
from tests.waiting import wait_for


def test_a_killed_part_starts_again_and_the_terminal_says_so(running: Running):
    running.start(running.part("web"))
    first = running.pid("web")
    wait_for("web to count as up", lambda: "web entered RUNNING" in _log(running))
    os.kill(first, signal.SIGKILL)
    second = running.pid("web", count=2)
    assert second != first
    assert is_alive(second)
    shown = running.says("web is up again")
    assert "web was killed (SIGKILL); starting it again" in shown


def test_a_part_that_never_stays_up_is_tried_again_and_again(running: Running):
    running.start(running.part("broken", "fails"), running.part("web"))
    running.pid("broken", count=3)
    shown = running.says("broken does not stay up")
    assert "Last line: the dummy has no wish to live" in shown
    assert shown.count("broken does not stay up") == 1, "said once, not at every try"
    assert len(running.lines("start")) >= 4
    assert is_alive(running.pid("web")), "the others are left in peace"


def test_a_restarted_part_never_meets_its_own_remains(running: Running):
    """The part dies; its trainer, in a session of its own and deaf, must go first."""
    running.start(running.part("gpu", "session"))
    first, trainer = running.pid("gpu"), running.pid("gpu-session")
    os.kill(first, signal.SIGKILL)
    running.pid("gpu", count=2)
    assert not is_alive(trainer)
    # It was asked, so that a trainer can write its checkpoint.
    assert ("gpu-session", trainer) in running.lines("end")


def test_nothing_survives_a_supervisor_killed_with_9(running: Running):
    running.start(
        running.part("web", "helper"),
        running.part("gpu", "helper", "session", "stubborn"),
    )
    for name in ("web", "web-helper", "gpu", "gpu-helper", "gpu-session"):
        running.pid(name)
    running.process.kill()
    running.all_gone()


def test_nothing_survives_a_tether_killed_with_9_and_the_part_starts_again(
    running: Running,
):
    running.start(running.part("gpu", "helper", "session", "stubborn", grace=1))
    remains = [running.pid(name) for name in ("gpu", "gpu-helper", "gpu-session")]
    wait_for("gpu to count as up", lambda: "gpu entered RUNNING" in _log(running))
    os.kill(parent_of(remains[0]), signal.SIGKILL)
    running.pid("gpu", count=2)
    assert "gpu was killed; starting it again" in running.says("gpu is up again")
    assert not any(map(is_alive, remains))


def test_ctrl_c_stops_workers_first_and_redis_last(running: Running):
    running.start(
        running.part("redis", order=10),
        running.part("vllm", order=20),
        running.part("web", "helper", order=30),
        running.part("gpu", order=30),
    )
    for name in ("redis", "vllm", "web-helper", "web", "gpu"):
        running.pid(name)
    # Ctrl-C reaches the terminal's whole process group.
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.wait(30) == 0
    running.all_gone()
    journal = [line.split()[:2] for line in running.journal.read_text().splitlines()]
    assert journal.index(["end", "gpu"]) < journal.index(["term", "vllm"])
    assert journal.index(["end", "web"]) < journal.index(["term", "vllm"])
    assert journal.index(["end", "vllm"]) < journal.index(["term", "redis"])
    assert journal[-1] == ["end", "redis"]
    assert "Stopped." in running.output.read_text()


def test_at_sigterm_the_trainer_is_told_while_its_worker_still_waits(running: Running):
    """The trainer leads a session; its worker ends once the trainer has ended."""
    running.start(running.part("gpu", "session", "waits", grace=20, sessions=True))
    running.pid("gpu")
    running.pid("gpu-session")
    running.process.terminate()
    assert running.process.wait(30) == 0
    ends = [name for name, _ in running.lines("end")]
    assert ends == ["gpu-session", "gpu"]


def test_a_part_deaf_to_sigterm_is_killed_after_its_grace(running: Running):
    running.start(running.part("deaf", "helper", "stubborn", grace=0.5))
    running.pid("deaf-helper")
    running.pid("deaf")
    running.process.terminate()
    assert running.process.wait(30) == 0
    running.all_gone()
    assert running.lines("end") == []


def test_a_second_ctrl_c_does_not_wait_for_the_grace(running: Running):
    running.start(running.part("deaf", "helper", "stubborn", grace=600))
    running.pid("deaf-helper")
    running.pid("deaf")
    running.process.send_signal(signal.SIGINT)
    running.says("Ctrl-C again")

    def ended() -> bool:
        running.process.send_signal(signal.SIGINT)
        return running.process.poll() is not None

    wait_for("the second Ctrl-C to end everything", ended)
    running.all_gone()


def test_redis_keeps_what_it_was_told_when_killed(running: Running, redis_part):
    running.start(redis_part.fields)
    client = wait_for("redis to answer", redis_part.client)
    client.rpush("gpu", "a nudge")
    os.kill(client.info("server")["process_id"], signal.SIGKILL)
    again = wait_for("redis to answer again", redis_part.client)
    assert again.lrange("gpu", 0, -1) == [b"a nudge"]


def test_supervisorctl_answers_while_it_runs(running: Running):
    running.start(running.part("web"))
    running.pid("web")
    config = running.data_dir / "run" / "supervisord.conf"
    supervisorctl = Path(sys.executable).with_name("supervisorctl")
    command = [supervisorctl, "-c", config, "status"]

    def status() -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout

    if (running.data_dir / "run" / "supervisor.sock").exists():
        wait_for("web to be shown as running", lambda: "RUNNING" in status())
    else:
        # pytest's folder may be too deep for a Unix socket; then there is none.
        assert "unix_http_server" not in config.read_text()


def _log(running: Running) -> str:
    log = running.data_dir / "logs" / "supervisord.log"
    return log.read_text().replace("success: ", "") if log.exists() else ""

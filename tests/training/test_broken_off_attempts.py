"""run_round, broken off: the trainer is killed or hangs, somebody cancels, the worker is to
stop, another attempt overtakes, the database is away.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
from django.db import OperationalError

from annotation import shutdown
from inference.errors import InferenceError
from inference.models import Policy
from inference.priority import TRAINER
from tests.training.conftest import (
    STUB,
    in_background,
    lines,
    set_row,
    states,
    take_back_the_stop,
)
from tests.waiting import wait_for
from training import attempts, runfolder, trainer
from training.models import TrainingRound
from training.rounds import cancel_round, resume_round
from training.running import run_round

pytestmark = pytest.mark.django_db
threads = pytest.mark.django_db(transaction=True)


def kill_at_step_3(queued: TrainingRound) -> None:
    """A slow trainer is killed on its way; the round is queued again."""
    TrainingRound.objects.filter(pk=queued.pk).update(config={"weight_decay": 0.05})
    running = in_background(queued.pk)
    wait_for("step 3", lambda: queued.metrics.filter(step__gte=3).exists())
    os.kill(int(lines(queued, "starts")[0].split()[1]), signal.SIGKILL)
    running.join()
    queued.refresh_from_db()
    assert queued.state == "queued" and queued.attempts == 1


@threads
def test_a_killed_trainer_is_tried_again_from_its_checkpoint(queued):
    kill_at_step_3(queued)
    assert "SIGKILL" in queued.events.last().detail

    TrainingRound.objects.filter(pk=queued.pk).update(config={"weight_decay": 0})
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "succeeded"
    # Claim 1, given back 2, claim 3: every step once, though two attempts made them.
    config = json.loads(
        (runfolder.attempt_folder(queued, 3) / "config.json").read_text()
    )
    assert config["resume_from"].endswith("attempt-1")
    assert list(queued.metrics.values_list("step", flat=True)) == list(range(1, 21))


@threads
def test_a_launcher_whose_process_was_killed_is_tried_again(queued, settings):
    """torchrun answers 1 then, as it does for any failure; status.json tells which."""
    launcher = '"$0" "$@" & wait $!; exit 1'
    settings.TRAINER_COMMAND = ["sh", "-c", launcher, *STUB]
    kill_at_step_3(queued)
    assert "without saying how" in queued.events.last().detail


def test_a_round_lost_three_times_fails_with_the_reason(queued, settings):
    settings.TRAINER_COMMAND = ["sh", "-c", "kill -9 $$"]
    for _attempt in range(3):
        run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed" and queued.attempts == 3
    assert "SIGKILL" in queued.error and "attempt 3" in queued.error


def test_a_trainer_that_stops_unasked_is_not_started_for_ever(queued, settings):
    settings.TRAINER_COMMAND = ["sh", "-c", "exit 75"]
    for _attempt in range(3):
        run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed" and queued.attempts == 3
    assert "though not asked to" in queued.error


def test_a_hanging_trainer_is_ended_and_tried_again(queued, settings):
    settings.ROUND_STALL_LIMIT = 0.3
    TrainingRound.objects.filter(pk=queued.pk).update(config={"seed": 99})
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "queued" and queued.attempts == 1
    assert "no progress" in queued.events.last().detail


@threads
def test_a_cancel_stops_the_trainer_and_resume_goes_on(queued, manager):
    TrainingRound.objects.filter(pk=queued.pk).update(config={"weight_decay": 0.05})
    running = in_background(queued.pk)
    wait_for("step 2", lambda: queued.metrics.filter(step__gte=2).exists())
    assert cancel_round(queued, manager).cancel_requested
    running.join()
    queued.refresh_from_db()
    assert queued.state == "cancelled" and queued.finished_at
    stopped_at = queued.step
    assert 2 <= stopped_at < 20
    assert len(lines(queued, "ends")) == 1

    TrainingRound.objects.filter(pk=queued.pk).update(config={})
    assert resume_round(queued, manager).state == "queued"
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "succeeded" and queued.finished_at
    folder = runfolder.attempt_folder(queued, queued.epoch)
    config = json.loads((folder / "config.json").read_text())
    assert config["resume_from"].endswith("attempt-1")


def test_a_cancel_between_the_last_look_and_publishing_holds(
    queued, manager, monkeypatch
):
    """The trainer has ended well; what was acknowledged to the manager counts."""
    from training import running
    from training.supervision import Ended

    set_row(queued, state="training")
    enter = running.move

    def cancelled_just_before(row, to, **options):
        cancel_round(row, manager)
        return enter(row, to, **options)

    monkeypatch.setattr(running, "move", cancelled_just_before)
    running.conclude(queued, Ended("done"))
    queued.refresh_from_db()
    assert queued.state == "cancelled"
    assert not Policy.objects.filter(number__gt=0).exists()


@threads
def test_a_stopping_worker_gives_the_round_back_without_counting_the_attempt(queued):
    TrainingRound.objects.filter(pk=queued.pk).update(config={"weight_decay": 0.05})
    running = in_background(queued.pk)
    wait_for("step 2", lambda: queued.metrics.filter(step__gte=2).exists())
    shutdown.request()
    running.join()
    queued.refresh_from_db()
    assert queued.state == "queued" and queued.attempts == 0
    assert lines(queued, "ends")

    run_round(queued.pk)  # the worker is on its way out: it takes nothing
    assert len(lines(queued, "starts")) == 1
    take_back_the_stop()
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "succeeded"


@pytest.mark.both_databases
@threads
def test_an_overtaken_supervisor_kills_its_trainer_and_writes_nothing(queued):
    """As after a SIGSTOP longer than the heartbeat limit: the epoch has moved on."""
    TrainingRound.objects.filter(pk=queued.pk).update(config={"weight_decay": 0.1})
    running = in_background(queued.pk)
    wait_for("step 2", lambda: queued.metrics.filter(step__gte=2).exists())
    queued.refresh_from_db()
    attempts.give_back(queued, "overtaken", is_lost=True)
    running.join()
    pid = int(lines(queued, "starts")[0].split()[1])
    assert not os.path.exists(f"/proc/{pid}")
    queued.refresh_from_db()
    assert (queued.state, queued.epoch) == ("queued", 2)
    assert states(queued)[-1] == "queued"
    # Its late writes are refused by the database.
    late = TrainingRound(pk=queued.pk, epoch=1, state="training")
    assert attempts.heartbeat(late, step=999) is False
    with pytest.raises(attempts.StaleRound):
        attempts.failed(late, "too late")
    queued.refresh_from_db()
    assert queued.step != 999 and queued.error == ""


def test_no_second_trainer_starts_while_one_still_runs(queued, settings):
    """A trainer whose supervisor died is still writing its checkpoint: it holds the
    round's lock, gets SIGTERM, and only then the next attempt starts."""
    settings.ROUND_STOP_LIMIT = 0.2
    folder = queued.folder / "attempt-0"
    folder.mkdir()
    lock = trainer.take_lock(queued.folder)
    code = "trap '' TERM; touch $0/ignores; while :; do sleep 0.1; done"
    settings.TRAINER_COMMAND = ["sh", "-c", code]
    stray = trainer.start(folder, lock)
    try:
        wait_for("it to ignore SIGTERM", (folder / "ignores").exists)
        assert os.getpriority(os.PRIO_PROCESS, stray.process.pid) == TRAINER
        with pytest.raises(trainer.TrainerStillThere):
            trainer.take_lock(queued.folder)
        settings.TRAINER_COMMAND = STUB
        run_round(queued.pk)
        queued.refresh_from_db()
        assert queued.state == "succeeded"
        # It ignored SIGTERM, so it was killed before the new one started.
        assert stray.poll() == -signal.SIGKILL
    finally:
        stray.close()


def test_the_trainer_dies_with_a_parent_killed_by_9(tmp_path):
    """The kernel's parent-death signal, not our own clean-up."""
    code = (
        "import os, sys, time, django; django.setup();"
        "from pathlib import Path; from training import trainer;"
        "folder = Path(sys.argv[1]); t = trainer.start(folder, trainer.take_lock(folder));"
        "print(t.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "TRAINER_COMMAND": "sleep 60",
        },
    )
    with parent:
        pid = int(parent.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        parent.kill()
    wait_for("the trainer to end", lambda: not os.path.exists(f"/proc/{pid}"))


@threads
def test_a_database_that_restarts_does_not_end_the_training(queued, monkeypatch):
    """Five looks in a row fail; the figures of the meantime come afterwards."""
    heartbeat, failures = attempts.heartbeat, iter(range(5))

    def restarting(*args, **changes):
        if changes.get("step") and next(failures, None) is not None:
            raise OperationalError("the database system is shutting down")
        return heartbeat(*args, **changes)

    monkeypatch.setattr(attempts, "heartbeat", restarting)
    set_row(queued, config={"weight_decay": 0.02})
    run_round(queued.pk)
    queued.refresh_from_db()
    assert next(failures, None) is None
    assert queued.state == "succeeded" and queued.attempts == 1
    assert list(queued.metrics.values_list("step", flat=True)) == list(range(1, 21))


@threads
def test_a_database_out_of_reach_ends_the_trainer_before_another_may_start(
    queued, monkeypatch, settings
):
    settings.ROUND_HEARTBEAT_LIMIT = 0.5

    def gone(*_args, **_changes):
        raise OperationalError("no route to host")

    set_row(queued, config={"weight_decay": 0.5})
    monkeypatch.setattr(attempts, "heartbeat", gone)
    run_round(queued.pk)
    # Nothing could be written: the row waits for reconcile, and no trainer is left.
    queued.refresh_from_db()
    assert queued.state == "training"
    starts = lines(queued, "starts")
    assert len(starts) <= 1
    assert not any(os.path.exists(f"/proc/{line.split()[1]}") for line in starts)
    trainer.take_lock(queued.folder).release()


@pytest.mark.parametrize(
    ("asked", "state"), [("stop", "queued"), ("cancel", "cancelled")]
)
def test_what_is_asked_while_vllm_drains_is_done_at_once_and_is_no_loss(
    queued, manager, settings, monkeypatch, asked, state
):
    settings.VLLM_WHILE_TRAINING = "stop"
    waits = []

    def wait_until(_state, _timeout):
        waits.append(asked)
        if asked == "stop":
            shutdown.request()
        else:
            cancel_round(queued, manager)
        raise InferenceError("vLLM was to be stopped, but is ready.")

    monkeypatch.setattr("inference.services.wait_until", wait_until)
    run_round(queued.pk)
    queued.refresh_from_db()
    assert (queued.state, len(waits)) == (state, 1)
    assert queued.attempts == (0 if asked == "stop" else 1)

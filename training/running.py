"""One attempt at a round: prepare, supervise the trainer, publish.

The task in tasks.py calls `run_round`; so may anything else, as often as it likes,
since only the one that claims the row goes on. Killing this process at any line loses
at most what was trained since the last checkpoint; reconcile.py does the rest.
"""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from inference import services as inference
from inference.errors import InferenceError
from training import attempts, ingest, runfolder, shutdown, trainer
from training.errors import StaleRound
from training.models import TrainingRound
from training.publishing import publish
from training.states import move

logger = logging.getLogger(__name__)

State = TrainingRound.State

STOPPED, LOCKED = 75, 73
"""The trainer's exit codes, design §5.2."""

VLLM_STOPS_WITHIN = 120.0
"""Seconds for vLLM to finish its requests and free its memory."""


@dataclass(frozen=True)
class Ended:
    """How a trainer ended: "done", "stopped", "failed" or "lost", and why."""

    how: str
    reason: str = ""


def run_round(round_id: int) -> None:
    """Claim a queued round and carry it as far as it goes; nothing if none waits."""
    if shutdown.requested():
        return
    training_round = attempts.claim(round_id)
    if training_round is None:
        return
    try:
        _attempt(training_round)
    except StaleRound as stale:
        logger.warning("Attempt given up, another one owns the round: %s", stale)
    except Exception as fault:
        # A fault of ours, not of the training: the next attempt may have more luck.
        logger.exception("Attempt at round %s broke off", round_id)
        _give_back(
            training_round,
            _("The attempt broke off: %(why)s.")
            % {"why": f"{type(fault).__name__}: {fault}"},
        )


def _give_back(training_round: TrainingRound, reason: str) -> None:
    try:
        attempts.give_back(training_round, reason, is_lost=True)
    except (StaleRound, DatabaseError) as problem:
        logger.warning("Round %s is left to reconcile: %s", training_round.pk, problem)


def _attempt(training_round: TrainingRound) -> None:
    lock = _lock_round(training_round)
    if lock is None:
        return
    try:
        ended = _train(training_round, lock)
    except runfolder.FrozenFileChanged as changed:
        attempts.failed(
            training_round,
            _(
                "%(file)s of this round was changed after it was frozen; start a new"
                " round."
            )
            % {"file": changed},
        )
    else:
        conclude(training_round, ended)
    finally:
        lock.release()


def _train(training_round: TrainingRound, lock: trainer.RoundLock) -> Ended:
    # Only now: an earlier trainer, just ended, may have left a newer checkpoint.
    folder = runfolder.prepare_attempt(training_round, training_round.epoch)
    with _vllm_aside(training_round):
        move(training_round, State.TRAINING, at_epoch=training_round.epoch)
        process = trainer.start(folder, lock)
        try:
            return supervise(training_round, process)
        finally:
            process.close()


def _lock_round(training_round: TrainingRound) -> trainer.RoundLock | None:
    """The round's lock, once no earlier trainer of it runs; None: asked to stop.

    One left behind by a killed supervisor gets SIGTERM at once (its parent's death
    has sent it already), SIGKILL after ROUND_STOP_LIMIT. Raises TrainerStillThere.
    """
    training_round.folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    signum = signal.SIGTERM
    while True:
        try:
            return trainer.take_lock(training_round.folder)
        except trainer.TrainerStillThere as other:
            waited = time.monotonic() - started
            if waited > 2 * settings.ROUND_STOP_LIMIT:
                raise
            if waited > settings.ROUND_STOP_LIMIT:
                signum = signal.SIGKILL
            trainer.signal_stray(other.pid, training_round.folder, signum)
        _beat(training_round)
        if shutdown.requested():
            attempts.give_back(training_round, _asked_to_stop(), is_lost=False)
            return None
        time.sleep(min(settings.ROUND_TICK, 0.5))


def _beat(training_round: TrainingRound, **changes: object) -> None:
    if not attempts.heartbeat(training_round, **changes):
        raise StaleRound(f"round {training_round.pk} at epoch {training_round.epoch}")


@contextmanager
def _vllm_aside(training_round: TrainingRound) -> Iterator[None]:
    """With VLLM_WHILE_TRAINING=stop the server is ended first and started after."""
    if settings.VLLM_WHILE_TRAINING != "stop":
        yield
        return
    inference.set_wanted("stopped", vllm_reason())
    try:
        _wait_for_vllm(training_round)
        yield
    finally:
        inference.set_wanted("running", "")


def vllm_reason() -> str:
    """Why managers see no new answers while a round trains."""
    return _("A round trains; the model answers again afterwards.")


def _wait_for_vllm(training_round: TrainingRound) -> None:
    until = time.monotonic() + VLLM_STOPS_WITHIN
    while True:
        try:
            inference.wait_until("stopped", min(5.0, settings.ROUND_TICK * 5))
            return
        except InferenceError:
            if time.monotonic() > until:
                raise
        _beat(training_round)


def supervise(training_round: TrainingRound, process: trainer.Trainer) -> Ended:
    """Watch the trainer until it ends; its figures go to the database as they come.

    Raises StaleRound where the round was taken away, the trainer then being killed.
    """
    reader = ingest.MetricsReader(process.folder / "metrics.jsonl")
    watch = _Watch(process)
    while True:
        code = process.poll()
        status = ingest.read_json(process.folder / "status.json")
        try:
            wants_stop = _record(
                training_round, reader, status, watch.has_moved(status)
            )
        except DatabaseError as problem:
            # The database may be restarting; nobody takes the round over before its
            # heartbeat is too old, and until then the training can go on.
            connection.close()
            if watch.seconds_since_beat() > settings.ROUND_HEARTBEAT_LIMIT * 0.8:
                process.close()
                raise StaleRound("the database has been out of reach") from problem
            if code is None:
                process.wait(settings.ROUND_TICK)
                continue
            wants_stop = False
        else:
            watch.beat()
        if code is not None:
            return _ended(process, code, status, watch.verdict)
        if wants_stop or shutdown.requested():
            watch.ask_to_stop()
        watch.enforce()
        process.wait(settings.ROUND_TICK)


class _Watch:
    """The clocks of one trainer: steps moving, asked to stop, our own heartbeat."""

    def __init__(self, process: trainer.Trainer):
        self.process = process
        self.verdict: Ended | None = None
        self._seen: object = None
        self._moved_at = self._beat_at = time.monotonic()
        self._stop_asked_at: float | None = None

    def beat(self) -> None:
        self._beat_at = time.monotonic()

    def seconds_since_beat(self) -> float:
        return time.monotonic() - self._beat_at

    def has_moved(self, status: dict) -> bool:
        keys = ("phase", "step", "phase_done", "state")
        seen = tuple(status.get(key) for key in keys)
        if seen == self._seen:
            return False
        self._seen, self._moved_at = seen, time.monotonic()
        return True

    def ask_to_stop(self) -> None:
        if self._stop_asked_at is None:
            self._stop_asked_at = time.monotonic()
            self.process.stop()

    def enforce(self) -> None:
        """SIGKILL for one that does not stop when asked, or no longer moves."""
        now = time.monotonic()
        if self._stop_asked_at is not None:
            if now - self._stop_asked_at > settings.ROUND_STOP_LIMIT:
                self.verdict = Ended("stopped", _("It did not stop in time."))
                self.process.signal(signal.SIGKILL)
        elif now - self._moved_at > settings.ROUND_STALL_LIMIT:
            minutes = settings.ROUND_STALL_LIMIT / 60
            self.verdict = Ended(
                "lost",
                _("The trainer made no progress for %(minutes)d minutes and was ended.")
                % {"minutes": minutes},
            )
            self.process.signal(signal.SIGKILL)


def _record(
    training_round: TrainingRound,
    reader: ingest.MetricsReader,
    status: dict,
    has_moved: bool,
) -> bool:
    """Store what is new and renew the heartbeat, together; whether a cancel waits."""
    changes = ingest.progress_of(status) if status else {}
    if has_moved:
        changes["progress_at"] = timezone.now()
    offset = reader.offset
    try:
        with transaction.atomic():
            _beat(training_round, **changes)
            while rows := reader.new_rows():
                ingest.store_metrics(training_round, rows)
            return TrainingRound.objects.values_list("cancel_requested", flat=True).get(
                pk=training_round.pk
            )
    except DatabaseError:
        reader.offset = offset
        raise


def _ended(
    process: trainer.Trainer, code: int, status: dict, verdict: Ended | None
) -> Ended:
    state = status.get("state")
    if state == "done":
        return Ended("done")
    if verdict is not None:
        return verdict
    if state == "stopped" or code == STOPPED:
        return Ended("stopped", status.get("reason") or "")
    log = runfolder.shown(process.folder / trainer.STDERR)
    if state == "failed" or (code > 0 and code != LOCKED):
        why = status.get("reason") or process.last_words() or _("it gave no reason")
        return Ended(
            "failed",
            _("The trainer failed: %(why)s (log: %(log)s)") % {"why": why, "log": log},
        )
    if code == LOCKED:
        return Ended("lost", _("Another trainer holds the run folder."))
    if code < 0:
        return Ended(
            "lost",
            _("The trainer was killed (%(signal)s); out of memory is the usual reason.")
            % {"signal": signal.Signals(-code).name},
        )
    return Ended(
        "lost", _("The trainer ended without saying how (log: %(log)s).") % {"log": log}
    )


def conclude(training_round: TrainingRound, ended: Ended) -> None:
    """Move the round on by how its trainer ended. Raises StaleRound."""
    fresh = TrainingRound.objects.get(pk=training_round.pk)
    if fresh.cancel_requested:
        attempts.cancelled(training_round)
    elif ended.how == "done":
        publish(move(training_round, State.PUBLISHING, at_epoch=training_round.epoch))
    elif ended.how == "failed":
        attempts.failed(training_round, ended.reason)
    elif ended.how == "stopped":
        attempts.give_back(training_round, _asked_to_stop(), is_lost=False)
    else:
        attempts.give_back(training_round, ended.reason, is_lost=True)


def _asked_to_stop() -> str:
    return _("The worker was stopped; the round goes on from its last checkpoint.")

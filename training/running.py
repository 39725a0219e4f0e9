"""One attempt at a round: lock, prepare, train, and move on by how it ended.

The task in tasks.py calls `run_round`; so may anything else, as often as it likes,
since only the one that claims the row goes on. Killing this process at any line loses
at most what was trained since the last checkpoint; reconcile.py does the rest. The
loop beside the running trainer is supervision.py's.
"""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import Error as DatabaseError
from django.utils.translation import gettext as _

from annotation import shutdown
from inference import services as inference
from inference.errors import InferenceError
from inference.faults import told
from training import attempts, runfolder, trainer
from training.errors import StaleRound
from training.models import TrainingRound
from training.publishing import publish
from training.states import move
from training.supervision import Ended, beat, supervise

logger = logging.getLogger(__name__)

State = TrainingRound.State

VLLM_STOPS_WITHIN = 120.0
"""Seconds for vLLM to finish its requests and free its memory."""


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
            % {"why": f"{type(fault).__name__}: {told(fault)}"},
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
    with _vllm_aside(training_round) as is_aside:
        if not is_aside:
            return Ended("stopped")
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
        beat(training_round)
        if shutdown.requested():
            attempts.give_back(training_round, _asked_to_stop(), is_lost=False)
            return None
        time.sleep(min(settings.ROUND_TICK, 0.5))


@contextmanager
def _vllm_aside(training_round: TrainingRound) -> Iterator[bool]:
    """With VLLM_WHILE_TRAINING=stop the server is ended first and started after.

    False: the attempt was asked to stop, or the round to cancel, meanwhile.
    """
    if settings.VLLM_WHILE_TRAINING != "stop":
        yield True
        return
    inference.set_wanted("stopped", vllm_reason())
    try:
        yield _wait_for_vllm(training_round)
    finally:
        inference.set_wanted("running", "")


def vllm_reason() -> str:
    """Why managers see no new answers while a round trains."""
    return _("A round trains; the model answers again afterwards.")


def _wait_for_vllm(training_round: TrainingRound) -> bool:
    until = time.monotonic() + VLLM_STOPS_WITHIN
    while True:
        try:
            inference.wait_until("stopped", min(5.0, settings.ROUND_TICK * 5))
            return True
        except InferenceError:
            if shutdown.requested() or _cancel_requested(training_round):
                return False
            if time.monotonic() > until:
                raise
        beat(training_round)


def conclude(training_round: TrainingRound, ended: Ended) -> None:
    """Move the round on by how its trainer ended. Raises StaleRound."""
    if _cancel_requested(training_round):
        attempts.cancelled(training_round)
    elif ended.how == "done":
        try:
            trained = move(
                training_round, State.PUBLISHING, at_epoch=training_round.epoch
            )
        except StaleRound:
            # Asked to cancel since we looked?
            if not _cancel_requested(training_round):
                raise
            attempts.cancelled(training_round)
        else:
            publish(trained)
    elif ended.how == "failed":
        attempts.failed(training_round, ended.reason)
    elif ended.how == "stopped":
        attempts.give_back(training_round, _asked_to_stop(), is_lost=False)
    else:
        attempts.give_back(training_round, ended.reason, is_lost=True)


def _cancel_requested(training_round: TrainingRound) -> bool:
    return TrainingRound.objects.filter(
        pk=training_round.pk, cancel_requested=True
    ).exists()


def _asked_to_stop() -> str:
    return _("The worker was stopped; the round goes on from its last checkpoint.")

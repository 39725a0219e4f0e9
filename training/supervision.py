"""The loop beside a running trainer: heartbeat, figures, cancel, clocks.

Every look is one transaction that renews the heartbeat under this attempt's epoch and
stores what is new, or does neither and raises StaleRound. How a round then moves on is
running.py's.
"""

import signal
import time
from dataclasses import dataclass

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import shutdown
from inference.faults import shown
from training import attempts, ingest, trainer
from training.errors import StaleRound
from training.models import TrainingRound

STOPPED, LOCKED = 75, 73
"""The trainer's exit codes, design §5.2."""


@dataclass(frozen=True)
class Ended:
    """How a trainer ended: "done", "stopped", "failed" or "lost", and why."""

    how: str
    reason: str = ""


def beat(training_round: TrainingRound, **changes: object) -> None:
    """Renew the heartbeat, with what else is new. Raises StaleRound."""
    if not attempts.heartbeat(training_round, **changes):
        raise StaleRound(f"round {training_round.pk} at epoch {training_round.epoch}")


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
            was_asked = watch.has_asked or shutdown.requested()
            return _ended(process, code, status, watch.verdict, was_asked)
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

    @property
    def has_asked(self) -> bool:
        """Whether we have asked it to stop."""
        return self._stop_asked_at is not None

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
    try:
        with transaction.atomic():
            beat(training_round, **changes)
            while rows := reader.new_rows():
                ingest.store_metrics(training_round, rows)
            return TrainingRound.objects.values_list("cancel_requested", flat=True).get(
                pk=training_round.pk
            )
    except DatabaseError:
        reader.offset = 0  # From the start again: each step is kept once.
        raise


def _ended(
    process: trainer.Trainer,
    code: int,
    status: dict,
    verdict: Ended | None,
    was_asked: bool,
) -> Ended:
    state = status.get("state")
    if state == "done":
        return Ended("done")
    if verdict is not None:
        return verdict
    log = shown(process.folder / trainer.STDERR)
    silent = Ended(
        "lost", _("The trainer ended without saying how (log: %(log)s).") % {"log": log}
    )
    if state == "running" and code > 0 and status.get("pid") != process.process.pid:
        # torchrun fails where a process of its was killed; one that fails says so.
        return silent
    if state == "stopped" or code == STOPPED:
        if was_asked:
            return Ended("stopped", status.get("reason") or "")
        # It counts, or one that always stops would be started for ever.
        why = status.get("reason") or _("it gave no reason")
        return Ended(
            "lost",
            _("The trainer stopped, though not asked to: %(why)s (log: %(log)s)")
            % {"why": why, "log": log},
        )
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
    return silent

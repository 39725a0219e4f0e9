"""Keeps vLLM in the state wanted in the database, until it is told to end.

One loop for each server: look, act, write down what is (the Replica row is what everybody
else reads). Without VLLM_URLS it also runs the server; with it, servers are only
watched and given their adapters back. How a server is started is in server.py, what
makes it ready in tending.py.
"""

import contextlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from django.conf import settings
from django.db import close_old_connections, connections
from django.db.utils import Error as DatabaseFailure
from django.utils import timezone, translation
from django.utils.translation import gettext as _

from inference.base import ensure_base
from inference.errors import InferenceError
from inference.faults import told
from inference.models import Policy, Replica
from inference.replicas import replica_urls
from inference.server import Server
from inference.tending import (
    GivenUp,
    RenderingCheck,
    check_base,
    restore_adapters,
)
from inference.vllm import VLLMClient

logger = logging.getLogger(__name__)

ANSWER_WITHIN = 20.0
"""Seconds for each of our own requests: less than a heartbeat counts for."""
LOOK_EVERY = 0.5
"""Seconds between two looks at the process and the wanted state."""
TEND_EVERY = 3.0
"""Seconds between two looks at a ready server's health and adapters."""
SAY_EVERY = 10.0
"""Seconds between two lines that say it is still starting."""
LONGEST_BACKOFF = 60.0
SETTLED = 60.0
"""Seconds of being ready after which a death starts the backoff anew."""
MUTE_FOR = 60.0
"""Seconds without health after which a running server counts as stuck."""


class StopRequest:
    """How often this process was asked to end. Plain, so that a signal may set it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *_signal: object) -> None:
        self.count += 1


class Supervisor:
    """Watches one server. `is_managed`: it also starts and stops it."""

    def __init__(
        self, url: str, base: Policy, is_managed: bool, stop: StopRequest
    ) -> None:
        self.base = base
        self.is_managed = is_managed
        self.stop = stop
        self.client = VLLMClient(url, settings.VLLM_API_KEY, ANSWER_WITHIN, attempts=2)
        self.rendering = RenderingCheck(Path(base.base_model))
        self.server: Server | None = None
        self._given_up: dict[str, GivenUp] = {}
        self._refused: dict[str, str] = {}
        self._idle_looks = 0
        self._deaths = 0
        self._start_at = 0.0
        self._tend_at = 0.0
        self._healthy_at = 0.0
        self._said_at = 0.0
        self._ready_at: float | None = None
        self._seen: tuple[str, str, dict[str, str]] = ("", "", {})
        self._written_at = 0.0
        self.replica = self._row(url)

    def _row(self, url: str) -> Replica:
        replica, _created = Replica.objects.update_or_create(
            url=url,
            defaults={"is_managed": self.is_managed, "base": self.base, "warning": ""},
        )
        self._ready_at = None
        self._seen = ("", "", {})
        return replica

    # --- One look ------------------------------------------------------------------

    def look(self) -> None:
        """One step; short, but for an answer of the server."""
        try:
            self.replica.refresh_from_db(fields=["wanted", "wanted_reason"])
        except Replica.DoesNotExist:
            self.base = ensure_base()
            self.replica = self._row(self.client.url)
        if not self.is_managed:
            self._tend(starting=_("not reachable"))
        elif self.replica.wanted == Replica.Wanted.STOPPED:
            self._stop()
        elif self.server is None:
            self._start()
        elif (status := self.server.exit_status()) is not None:
            self._bury(status)
        else:
            with contextlib.suppress(OSError):  # An operator may have taken it away.
                self.server.bound_log()
            # Named, or it could not be told again in another language.
            age = {"seconds": self.server.age()}
            self._tend(starting=_("starting: %(seconds)d s") % age)
            self._check_stuck()

    def close(self) -> None:
        """Drain and end the server; say so in the row."""
        self.rendering.close()
        if self.server is not None:
            self._stop()
        if self.is_managed:
            self._note(Replica.State.STOPPED, _("run_vllm has ended"))
        self.client.close()

    def _start(self) -> None:
        if time.monotonic() < self._start_at:
            self._note(*self._seen[:2])
            return
        try:
            self.server = Server(self.base, settings.VLLM_PORT)
        except (InferenceError, OSError) as error:
            self._fail(told(error))
            return
        self._ready_at = None
        self._healthy_at = self._said_at = time.monotonic()
        logger.info(
            "vLLM is starting with %s; its log is logs/vllm-server.log", self.base.name
        )
        self._note(Replica.State.STARTING, _("starting: 0 s"))

    def _stop(self) -> None:
        if self.server is not None:
            reason = self.replica.wanted_reason or _("asked to")
            logger.info("vLLM finishes its answers and stops (%s)", reason)
            self._idle_looks = 0
            if self._ready_at is None:
                self.server.kill()  # nobody was given it to ask yet
            else:
                self.server.stop(self._has_drained)
            self.server = None
            logger.info("vLLM has stopped")
        self._ready_at = None
        self._deaths = 0
        self._start_at = 0.0
        self._note(Replica.State.STOPPED, self.replica.wanted_reason)

    def _has_drained(self) -> bool:
        """Whether it may be killed: nothing runs any more, or we are in a hurry.

        Left alone, an idle vLLM takes eleven seconds to end its worker. Two looks, so
        that the last answer is also sent. The second request to end is a hurry.
        """
        with contextlib.suppress(DatabaseFailure):
            self._note(Replica.State.STARTING, _("finishing its answers"))
        try:
            metrics = self.client.metrics()
        except InferenceError:
            metrics = {}
        queues = ("num_requests_running", "num_requests_waiting")
        is_idle = all(metrics.get(queue) == 0 for queue in queues)
        self._idle_looks = self._idle_looks + 1 if is_idle else 0
        return self._idle_looks >= 2 or self.stop.count > 1

    def _bury(self, status: int) -> None:
        assert self.server is not None
        how = f"signal {-status}" if status < 0 else f"status {status}"
        words = self.server.last_words() if status >= 0 else ""
        # Its engine and workers die with it; this makes sure before the next start.
        self.server.kill()
        self.server = None
        self._fail(f"vLLM died ({how})" + (f": {words.rstrip('.')}" if words else ""))

    def _fail(self, what: str) -> None:
        """Note a failure and when to start again: at once, then ever later."""
        now = time.monotonic()
        if self._ready_at is not None and now - self._ready_at > SETTLED:
            self._deaths = 0
        wait = min(LONGEST_BACKOFF, 2.0**self._deaths) if self._deaths else 0.0
        self._deaths += 1
        self._ready_at = None
        self._start_at = now + wait
        after = f" in {wait:g} s" if wait else ""
        logger.error("%s; starting it again%s", what, after)
        self._note(Replica.State.FAILED, what)

    def _check_stuck(self) -> None:
        assert self.server is not None
        starting = self._ready_at is None
        if starting and self.server.age() > settings.VLLM_START_TIMEOUT:
            what = f"vLLM was not ready after {self.server.age():.0f} s"
        elif not starting and time.monotonic() - self._healthy_at > MUTE_FOR:
            what = f"vLLM has not answered for {MUTE_FOR:.0f} s"
        else:
            return
        self.server.kill()
        self.server = None
        self._fail(what)

    # --- A live server -------------------------------------------------------------

    def _tend(self, starting: str) -> None:
        """Health, then base, rendering and adapters; ready only when all hold."""
        now = time.monotonic()
        if now < self._tend_at:
            return
        self._tend_at = now + (1.0 if self._ready_at is None else TEND_EVERY)
        if not self.client.is_healthy():
            detail = starting if self._ready_at is None else _("not answering")
            self._not_ready(detail, f"vLLM is {detail}")
            return
        self._healthy_at = now
        try:
            if self._ready_at is None:
                check_base(self.client, self.base)
                self._compare_renderings()
                self._given_up.clear()
            self._refused = restore_adapters(
                self.client, self.base, self._given_up, self._ready_at is None
            )
        except InferenceError as error:
            self._not_ready(str(error), f"vLLM is not ready: {error}")
            return
        if self._ready_at is None:
            self._ready_at = time.monotonic()
            took = f" after {self.server.age():.0f} s" if self.server else ""
            logger.info("vLLM is ready%s at %s", took, self.client.url)
        self._note(Replica.State.READY, "")

    def _not_ready(self, detail: str, line: str) -> None:
        """`detail` for the row; `line` for the log, where it comes now and then."""
        if self._ready_at is not None and self.server is None:
            self._ready_at = None  # somebody else's may come back as a new process
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY:
            self._said_at = now
            logger.info(line)
        self._note(Replica.State.STARTING, detail)

    def _compare_renderings(self) -> None:
        warning = self.rendering.difference(self.client)
        if warning:
            logger.error("WARNING: %s", warning)
        Replica.objects.filter(pk=self.replica.pk).update(warning=warning)

    def _note(self, state: str, detail: str) -> None:
        """Write state and heartbeat: at once if something changed, else now and then."""
        now = time.monotonic()
        seen = (state, detail, self._refused)
        changed = seen != self._seen
        if seen[::2] == self._seen[::2] and now - self._written_at < 1.0:
            changed = False  # a count of seconds need not be written twice a second
        if not changed and now - self._written_at < 5.0:
            return
        Replica.objects.filter(pk=self.replica.pk).update(
            state=state,
            detail=detail,
            refused=self._refused,
            heartbeat_at=timezone.now(),
        )
        self._seen, self._written_at = seen, now


def supervise(base: Policy, stop: StopRequest) -> None:
    """Watch every server in use until told to stop; then end what was started.

    Call it without a language, as its threads have none: what they note is kept in
    English and told again in the reader's. Each has a thread, so that one that hangs makes
    no other's heartbeat late. The first is this one: vLLM dies with the thread that
    started it (vllm_process.py).
    """
    is_managed = not settings.VLLM_URLS
    supervisors = [Supervisor(url, base, is_managed, stop) for url in replica_urls()]
    first, *others = supervisors
    try:
        with ThreadPoolExecutor(
            len(supervisors), initializer=translation.deactivate_all
        ) as pool:
            watched = [pool.submit(_watch, other, stop) for other in others]
            _watch(first, stop)
        for one in watched:
            one.result()
    finally:
        for supervisor in supervisors:
            with contextlib.suppress(DatabaseFailure):
                supervisor.close()


def _watch(supervisor: Supervisor, stop: StopRequest) -> None:
    try:
        while not stop.count:
            time.sleep(LOOK_EVERY)
            close_old_connections()
            try:
                supervisor.look()
            except DatabaseFailure as error:
                logger.error("The database does not answer (%s); going on", error)
    except BaseException:
        if not stop.count:  # A second one would be a hurry.
            stop()  # A fault of ours ends all of them, and run_vllm is started again.
        raise
    finally:
        connections.close_all()  # This thread's own.

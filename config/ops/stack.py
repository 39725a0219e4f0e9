"""Keeps the parts of one machine's Tiebreak running, under one supervisor.

Built on supervisor 4 (autorestart, back-off, rotated logs, ordered stop), run in this
process, with four things it does not do by itself: it never gives up on a part; each
part hangs on a tether (tether.py), so that nothing outlives this process whatever
kills it; a part whose tether was killed is swept up before it starts again; and what
happens is told at the terminal. What the parts are is in parts.py.

While it runs, `supervisorctl -c DATA_DIR/run/supervisord.conf status` answers too.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor import events
from supervisor.medusa.asyncore_25 import ExitNow
from supervisor.options import ServerOptions
from supervisor.process import Subprocess
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from . import tether
from .checks import ROOT, parts_lock
from .terminal import terminal

LONGEST_PAUSE = 10.0
"""Seconds between two tries to start a part that does not stay up."""
STAYS_UP = 3
"""Seconds after which a part counts as started."""
SOCKET_LIMIT = 100
"""Bytes: longer paths of Unix sockets are refused by the kernel (107, less a margin)."""


@dataclass(frozen=True)
class Part:
    """One supervised program."""

    name: str
    command: Sequence[str | Path]
    order: int
    """Stopped from the highest order to the lowest, one order after the other."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    sessions: bool = False
    """Whether SIGTERM also goes to sessions started below it (the trainer)."""


def log_of(data_dir: Path, name: str) -> Path:
    return data_dir / "logs" / f"{name}.log"


def write_config(parts: Sequence[Part], data_dir: Path) -> Path:
    """supervisor's configuration for these parts, in DATA_DIR/run; its path."""
    run = data_dir / "run"
    lines = [
        "; Written at every start by config/ops/stack.py.",
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        "nocleanup=true",
        f"logfile={_escaped(data_dir / 'logs' / 'supervisord.log')}",
        "logfile_maxbytes=5MB",
        "logfile_backups=2",
        f"pidfile={_escaped(run / 'supervisord.pid')}",
        f"childlogdir={_escaped(data_dir / 'logs')}",
    ]
    socket = run / "supervisor.sock"
    # Left by an instance that was killed; the caller holds the lock on DATA_DIR.
    socket.unlink(missing_ok=True)
    if len(os.fsencode(socket)) < SOCKET_LIMIT:
        lines += [
            "[unix_http_server]",
            f"file={_escaped(socket)}",
            "chmod=0700",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = "
            "supervisor.rpcinterface:make_main_rpcinterface",
            "[supervisorctl]",
            f"serverurl=unix://{_escaped(socket)}",
        ]
    for order in sorted({part.order for part in parts}):
        members = [part for part in parts if part.order == order]
        # A group stops as one, and before the groups with a lower priority.
        lines += [
            f"[group:stage{order}]",
            f"programs={','.join(part.name for part in members)}",
            f"priority={order}",
        ]
        for part in members:
            lines += _program(part, data_dir)
    path = run / "supervisord.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


def _program(part: Part, data_dir: Path) -> list[str]:
    leash = [sys.executable, "-I", "-S", Path(tether.__file__)]
    leash += ["--grace", str(part.grace), "--parent", str(os.getpid())]
    leash += ["--lock", parts_lock(data_dir)] + ["--sessions"] * part.sessions
    command = shlex.join(str(word) for word in [*leash, "--", *part.command])
    return [
        f"[program:{part.name}]",
        f"command={_escaped(command)}",
        f"directory={_escaped(ROOT)}",
        "autorestart=true",
        f"startsecs={STAYS_UP}",
        # Never FATAL: a full disk or a missing network may end after hours.
        "startretries=1000000000",
        "stopsignal=TERM",
        # The tether kills at `grace`; supervisor only if the tether itself hangs.
        f"stopwaitsecs={int(part.grace) + 10}",
        f"stdout_logfile={_escaped(log_of(data_dir, part.name))}",
        "stdout_logfile_maxbytes=20MB",
        "stdout_logfile_backups=3",
        "redirect_stderr=true",
    ]


def _escaped(value: str | Path) -> str:
    return str(value).replace("%", "%%")


class Stack(Supervisor):
    """supervisor's loop, with our lines at the terminal and our rules for restarts."""

    def __init__(self, options: ServerOptions, data_dir: Path) -> None:
        super().__init__(options)
        self.data_dir = data_dir
        self.interrupted_at = 0.0
        self.ending = threading.Event()
        self.down: set[str] = set()

    def runforever(self) -> None:
        # supervisor looks at signals once a second; a stop has several steps.
        poll = self.options.poller.poll
        self.options.poller.poll = lambda timeout: poll(min(timeout, 0.2))
        # Subscribed here because run() clears what was subscribed before it.
        events.subscribe(events.ProcessStateEvent, self.on_change)
        super().runforever()

    def handle_signal(self) -> None:
        signum = self.options.get_signal()
        if signum not in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            return
        if self.options.mood > SupervisorStates.SHUTDOWN:
            self.options.mood = SupervisorStates.SHUTDOWN
            self.interrupted_at = time.monotonic()
            self.ending.set()
            terminal.line(
                "Stopping. A running round writes a checkpoint first and goes on at the "
                "next start; Ctrl-C again ends everything at once."
            )
        elif signum == signal.SIGINT and time.monotonic() - self.interrupted_at > 1:
            # Not sooner: one Ctrl-C may arrive twice, from the terminal and from make.
            terminal.line("Ending everything at once.")
            tether.kill_below(os.getpid())

    def shutdown_report(self) -> list[Subprocess]:
        left = super().shutdown_report()
        if left:
            names = ", ".join(sorted(process.config.name for process in left))
            terminal.progress(f"stopping: {names}")
        return left

    def on_change(self, event: events.ProcessStateEvent) -> None:
        process = event.process
        name = process.config.name
        stopping = self.options.mood <= SupervisorStates.SHUTDOWN
        if process.state in (ProcessStates.EXITED, ProcessStates.BACKOFF):
            self.sweep()
        if stopping:
            return
        if process.state == ProcessStates.EXITED:
            self.down.add(name)
            terminal.line(
                f"{name} {_how_it_ended(process.exitstatus)}; starting it again "
                f"(log: {self._log(name)})"
            )
        elif process.state == ProcessStates.BACKOFF:
            pause = min(float(process.backoff), LONGEST_PAUSE)
            process.delay = time.time() + pause
            if name not in self.down or process.backoff % 10 == 0:
                terminal.line(
                    f"{name} does not stay up; trying again until it does "
                    f"(log: {self._log(name)}). Last line: {self.last_line(name)}"
                )
            self.down.add(name)
        elif process.state == ProcessStates.RUNNING and name in self.down:
            self.down.discard(name)
            terminal.line(f"{name} is up again")

    def _log(self, name: str) -> str:
        return os.path.relpath(log_of(self.data_dir, name))

    def last_line(self, name: str) -> str:
        try:
            with log_of(self.data_dir, name).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return "none"
        return next((text for text in reversed(lines) if text.strip()), "none")[:300]

    def sweep(self) -> None:
        """Kill what lost its tether: it came to this process, a subreaper."""
        me = os.getpid()
        known = set(self.options.pidhistory)
        for pid in list(known):
            known |= set(tether.descendants(pid))
        until = time.monotonic() + 2
        while (lost := set(tether.descendants(me)) - known) and (
            time.monotonic() < until
        ):
            tether.send(sorted(lost), signal.SIGKILL)
            time.sleep(0.02)


def _how_it_ended(code: int | None) -> str:
    """What the tether answers; -1, whatever the signal, where it was killed itself."""
    if code is None:
        return "ended"
    if code < 0:
        return "was killed"
    if code > 128:
        try:
            return f"was killed ({signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"ended (exit code {code})"


def supervise(
    parts: Sequence[Part],
    data_dir: Path,
    started: Callable[[threading.Event], None] = lambda ending: None,
) -> int:
    """Run the parts until SIGINT or SIGTERM; returns 0 when all of them are gone.

    `started` is called once the supervisor is about to run, with the event that is
    set when it begins to stop.
    """
    tether.prctl(tether.PR_SET_CHILD_SUBREAPER, 1)
    options = ServerOptions()
    options.realize(["-c", str(write_config(parts, data_dir))], doc="")
    options.first, options.test = True, False
    stack = Stack(options, data_dir)
    started(stack.ending)
    try:
        stack.main()
    except ExitNow:
        pass
    finally:
        # Reached with parts still up only if the supervisor itself failed.
        tether.kill_below(os.getpid())
        options.close_httpservers()
        options.close_logger()
    terminal.line("Stopped.")
    return 0

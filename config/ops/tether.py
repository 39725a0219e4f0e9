"""Runs one part of the stack and lets nothing of it outlive its supervisor.

    python tether.py [--grace S] [--sessions] [--lock FILE] [--parent PID] -- COMMAND…

A part may fork as it likes (gunicorn's workers, Celery's pool, vLLM's engine, the
trainer in a session of its own): the tether is a child subreaper, so whatever loses
its parent becomes the tether's child and can be found. Three ways to end:

- SIGTERM: the part gets SIGTERM, with `--sessions` also each process below it that
  leads a session (the trainer, which then writes its checkpoint while the part still
  waits for it). When the part has gone the rest gets SIGTERM; after `grace` seconds
  whatever is left gets SIGKILL.
- The part ends by itself: the rest gets SIGTERM and a few seconds, so that a restarted
  part never meets its own remains.
- The supervisor is gone (parent-death signal): as SIGTERM, but with two seconds.

The tether killed with -9 takes the part along (the part's own parent-death signal);
the rest falls to the supervisor, a subreaper too. It knows nothing of what it runs.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SUPERVISOR_DIED = signal.SIGUSR1
STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP}
WATCHED = STOP | {SUPERVISOR_DIED, signal.SIGCHLD}
GRACE_AFTER_DEATH = 10.0
"""Seconds for what a part left behind when it ended by itself."""
GRACE_ALONE = 2.0
"""Seconds for everything when the supervisor is gone."""


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def descendants(root: int) -> dict[int, int]:
    """The living processes below `root`: {pid: session id}. Zombies are not alive."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as f:
                # The name may hold spaces and brackets: the rest starts at the last one.
                fields = f.read().rpartition(")")[2].split()
            state, parent, session = fields[0], int(fields[1]), int(fields[3])
            alive = -1 if state in "ZX" else session
            parents.setdefault(parent, []).append((int(entry), alive))
    found: dict[int, int] = {}
    todo = [root]
    while todo:
        for pid, session in parents.get(todo.pop(), []):
            todo.append(pid)
            if session >= 0:
                found[pid] = session
    return found


def send(pids: list[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def kill_below(root: int) -> None:
    """SIGKILL everything below `root` until nothing is left, for five seconds at most.

    Whoever waits for these children still can: they are not reaped here.
    """
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        left = descendants(root)
        if not left:
            return
        send(list(left), signal.SIGKILL)
        time.sleep(0.02)


def reap() -> dict[int, int]:
    """The children that have ended since the last call: {pid: exit status}."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            ended[pid] = code if code >= 0 else 128 - code
    return ended


def start(command: list[str]) -> int:
    """Fork and run `command`; it dies with this process, whatever kills it."""
    tether = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != tether:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        # Python ignores these two, and what is ignored stays so across exec.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"tiebreak: cannot run {command[0]}: {error}\n")
        sys.stderr.flush()
    os._exit(127)


def watch(part: int, parent: int, grace: float, sessions: bool) -> int:
    """Wait until the part and everything below it has ended; the part's exit code."""
    code: int | None = None
    stopping = False
    deadline = float("inf")
    told: set[int] = set()
    me = os.getpid()
    while True:
        wait = 1.0 if code is None and not stopping else 0.1
        received = signal.sigtimedwait(WATCHED, wait)
        signum = received.si_signo if received else None
        ended = reap()
        if part in ended:
            code = ended[part]
            deadline = min(deadline, time.monotonic() + GRACE_AFTER_DEATH)
        if signum in STOP and not stopping:
            stopping = True
            deadline = min(deadline, time.monotonic() + grace)
        if signum == SUPERVISOR_DIED or os.getppid() != parent:
            stopping = True
            deadline = min(deadline, time.monotonic() + GRACE_ALONE)
        if code is None and not stopping:
            continue
        below = descendants(me)
        if not below and code is not None:
            # What ended since the last look must not be left to others as a zombie.
            reap()
            return code
        if time.monotonic() > deadline:
            kill_below(me)
            code = reap().get(part, code)
            return code if code is not None else 128 + signal.SIGKILL
        if code is not None:
            wanted = set(below)
        else:
            leaders = {p for p, session in below.items() if sessions and session == p}
            wanted = {part} | leaders
        send(sorted(wanted - told), signal.SIGTERM)
        told |= wanted


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, default=10.0)
    parser.add_argument("--sessions", action="store_true")
    parser.add_argument("--lock")
    parser.add_argument("--parent", type=int, default=os.getppid())
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    prctl(PR_SET_PDEATHSIG, SUPERVISOR_DIED)
    if os.getppid() != args.parent:
        return 1
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if args.lock:
        # Held while anything of this part lives; the next start waits for it.
        fcntl.flock(os.open(args.lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_SH)
    return watch(start(args.command), args.parent, args.grace, args.sessions)


if __name__ == "__main__":
    sys.exit(main())

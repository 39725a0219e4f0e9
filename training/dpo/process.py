"""What ties this process to the world: stop signals and the parent's death.

Imports nothing heavy, so that it is in force before torch is loaded.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from training.dpo.errors import Stopped, TrainerError

PARENT_VARIABLE = "TIEBREAK_DIE_WITH_PARENT"
"""Environment variable holding the pid of the parent to die with."""

TORCHRUN_VARIABLE = "TORCHELASTIC_RUN_ID"
"""Environment variable that torchrun gives to the processes it starts."""

GRACE_SECONDS = 30
"""After the parent's death, the time left to write a checkpoint."""

HEARD = b"\nStopping after what is in hand; the same command goes on from there.\n"
"""Said at Ctrl-C: a step of a large model takes a while."""

_PR_SET_PDEATHSIG = 1
_GROUP = Path("/proc/self/autogroup")


class StopFlag:
    """Set once by SIGTERM or SIGINT; read by the loops between units of work."""

    def __init__(self) -> None:
        self.requested = False
        self.parent: int | None = None

    def install(self) -> None:
        """Handle SIGTERM and SIGINT (Ctrl-C) from now on. Main thread only."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and not self.requested:
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, HEARD)
        self.requested = True
        if self.parent is not None and os.getppid() != self.parent:
            # Nobody waits for us any more: SIGALRM's default action ends the process
            # even if a step hangs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(GRACE_SECONDS)

    def die_with_parent(self, parent: int) -> None:
        """Ask the kernel for SIGTERM when `parent` dies (Linux, prctl(2)).

        Raises Stopped if the parent is already gone: it may have died between
        starting us and this call.
        """
        self.parent = parent
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
            raise TrainerError("The system refused to tie the trainer to its parent.")
        if os.getppid() != parent:
            raise Stopped("the process that started the trainer is gone")

    def die_with_torchrun(self) -> None:
        """`die_with_parent` for a process started by torchrun, which leads its own
        session: no signal to torchrun's group reaches it.

        A thread sees to it that a process hanging in a message to another one ends too.
        """
        self.die_with_parent(os.getppid())
        threading.Thread(target=self._watch_parent, daemon=True).start()

    def _watch_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(1)
        time.sleep(GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    def check(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self.requested:
            raise Stopped("stopped by a signal")


def pass_on_niceness() -> None:
    """Give the session that torchrun made for this process the niceness that it inherited.

    Where Linux groups processes by session (autogroup, sched(7)), nice counts only among
    those of one session: a trainer that is to give way would not.
    """
    for _attempt in range(20):  # as many processes of a machine may ask at once
        try:
            _GROUP.write_text(str(os.nice(0)))
        except BlockingIOError:  # once in a tenth of a second, whoever asks
            time.sleep(0.12)
        except OSError:  # no such kernel, or not ours to write
            return
        else:
            return

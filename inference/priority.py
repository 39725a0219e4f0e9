"""How far a process lets others go first.

Whoever judges waits for the web server, not for a model: vLLM and the trainer, which keep
every processor busy, give way to all else, and the trainer to vLLM. Imports nothing heavy:
it is called before anything is loaded.
"""

import os
import time
from pathlib import Path

VLLM, TRAINER = 10, 15
"""Niceness, 0 to 19."""

_GROUP = Path("/proc/self/autogroup")


def give_way(niceness: int) -> None:
    """Lower the priority of this process, and of those it starts, by so much.

    Where Linux groups processes by session (autogroup, sched(7)), nice counts only among
    those of one session, so the leader of one lowers the session as well. A process that
    leads none leaves the session alone: others live in it.
    """
    os.nice(niceness)
    if os.getsid(0) != os.getpid():
        return
    for _attempt in range(5):
        try:
            _GROUP.write_text(str(niceness))
        except BlockingIOError:  # once in a tenth of a second, whoever asks
            time.sleep(0.12)
        except OSError:  # no such kernel, or not ours to write
            return
        else:
            return

"""vLLM's API server, so tied to its parent that a kill -9 leaves nothing behind.

    python -m inference.vllm_process ARGUMENTS OF VLLM

vLLM runs as three processes and more: the API server starts EngineCore, which starts
the workers. multiprocessing imports this very module in each of them (as their main
module), so each asks the kernel to be killed when its own parent ends. What is run is
vLLM's module, not its console script, which the CPU build cannot start. Never imported
by Django's processes.
"""

import ctypes
import os
import signal

from inference import priority, vllm_mending

PR_SET_PDEATHSIG = 1
PARENT = "TIEBREAK_PARENT_PID"
"""Each process leaves its id here for those it starts."""


def die_with_parent() -> None:
    """Be killed when the process that started this one ends, however it ends.

    The kernel means the parent's thread, so start such processes from a main thread.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    expected = os.environ.get(PARENT, "")
    if expected and os.getppid() != int(expected):
        os._exit(1)  # it ended before the kernel was told
    os.environ[PARENT] = str(os.getpid())


def _die_with_parent_after_fork() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.environ[PARENT] = str(os.getpid())


if __name__ in ("__main__", "__mp_main__"):
    die_with_parent()
    os.register_at_fork(after_in_child=_die_with_parent_after_fork)
    vllm_mending.install()

if __name__ == "__main__":
    import runpy

    priority.give_way(priority.VLLM)
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")

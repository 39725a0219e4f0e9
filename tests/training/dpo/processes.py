"""Several trainer processes as torchrun starts them, without torchrun's own seconds.

A server that has imported everything once forks the processes; the test holds the
store that torchrun's agent would hold.
"""

import multiprocessing
import os
import sys
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.training.dpo.processes", "training.dpo.run"])


def _main(rank, size, port, run, fault):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    torch.set_num_threads(1)
    sys.stderr = (run / f"stderr-{rank}.log").open("a", buffering=1)  # noqa: SIM115
    from training.dpo.__main__ import main

    if fault is not None:
        fault(rank)
    os._exit(main([str(run)]))


class Processes:
    """The processes of one run; `codes()` waits for their exit codes, by rank."""

    def __init__(self, run, size, fault=None):
        self.run = run
        self.store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False
        )
        self.processes = [
            _context.Process(
                target=_main,
                args=(rank, size, self.store.port, run, fault),
            )
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    def codes(self):
        for process in self.processes:
            process.join(300)
        return [process.exitcode for process in self.processes]

    def last_words(self, rank):
        """The last line of a process on stderr."""
        return (self.run / f"stderr-{rank}.log").read_text("utf-8").splitlines()[-1]

    def wait_for_lines(self, count):
        """Until metrics.jsonl holds `count` lines."""
        path = self.run / "metrics.jsonl"
        while not path.exists() or path.read_bytes().count(b"\n") < count:
            assert all(p.is_alive() for p in self.processes), self.codes()
            time.sleep(0.002)


@contextmanager
def processes(run, size=2, fault=None):
    """Start them; none outlives the block. `fault(rank)` is called in each first."""
    started = Processes(run, size, fault)
    try:
        yield started
    finally:
        for process in started.processes:
            process.kill()
            process.join()


def train_in(size, run):
    """Do the run in `size` processes; all must end well."""
    with processes(run, size) as started:
        codes = started.codes()
        assert codes == [0] * size, (codes, started.last_words(0))

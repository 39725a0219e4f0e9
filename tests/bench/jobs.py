"""Programs that stay and do one job after another, so that sides can take turns.

`Worker` is the bench's end. The other end is a program that calls `serve`: a JSON object
a line comes on stdin, its answer goes to stdout, whatever libraries print goes to the
log. Imports and first calls are then paid once, before anything is timed.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.bench.processes import BenchError, start, stop, tail


class Worker:
    """`python -m MODULE`, started when first asked and again after it broke."""

    def __init__(self, module: str, log: Path, env: Mapping[str, str]) -> None:
        self.module, self.log, self.env = module, log, env
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job. Raises BenchError if the program broke over it."""
        if self.process is None:
            command = [sys.executable, "-m", self.module]
            self.process = start(command, self.log, self.env, talks=True)
        process = self.process
        assert process.stdin and process.stdout
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self.close()
            raise BenchError(
                f"{self.module} ended with {process.returncode}:\n{tail(self.log)}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the program; it is started again when asked."""
        process, self.process = self.process, None
        if process is not None:
            assert process.stdin and process.stdout
            with suppress(BrokenPipeError):
                process.stdin.close()
            stop(process)
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Stopwatch:
    """Wall seconds, and processor seconds of all threads, within `with` blocks."""

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        """`wait` returns once an accelerator has done what it was told."""
        self.seconds = self.cpu = 0.0
        self._wait = wait

    def __enter__(self) -> Self:
        self._wait()
        self._begun = time.monotonic(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self._wait()
        self.seconds += time.monotonic() - self._begun[0]
        self.cpu += time.process_time() - self._begun[1]


def serve(do: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer jobs until stdin ends. An exception ends the program, told in the log.

    Every answer gets "process_bytes", the most this process ever held.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answer = do(json.loads(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer["process_bytes"] = peak
        _give_back()
        print(json.dumps(answer), file=answers, flush=True)


def _give_back() -> None:
    """Free what the job held, on the accelerator too, which two sides share."""
    import ctypes
    import gc

    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()

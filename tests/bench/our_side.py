"""Our trainer, run folder after run folder: `python -m tests.bench.our_side`.

Jobs (see `jobs.py`): {"folder"} trains it as `python -m training.dpo` does and answers
{"reference", "training"} in seconds of wall clock as summary.json has them, "cpu" in
processor seconds from the reference pass to the end of training (the log and the last
checkpoint included), "steps" with metrics.jsonl's lines, "device_bytes", and summary.json's
"forward" and "why": how the passes were made.
{"products", "dtype", "device", "seconds"} measures matrix products of (rows, inputs, outputs)
and answers {"rates": {"linear", "onednn"}}: operations a second of each, null where it can't be.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.jobs import serve
from training.dpo.__main__ import main
from training.dpo.status import StatusFile

TIMED = ("reference", "training")
"""Phases of status.json; those beside them (loading, scoring, …) are not counted."""


CALLS_AT_ONCE = 20


class PhaseClock:
    """Processor seconds of each phase that status.json goes through."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self._now: str | None = None
        self._begun = 0.0

    def enter(self, name: str | None) -> None:
        cpu = time.process_time()
        if self._now is not None:
            self.cpu[self._now] = self.cpu.get(self._now, 0.0) + cpu - self._begun
        self._now, self._begun = name, cpu

    def follow(self) -> None:
        """Be told by every StatusFile of this process from now on."""
        told = StatusFile.phase

        def phase(status: StatusFile, name: str, *args: Any, **values: Any) -> None:
            self.enter(name)
            told(status, name, *args, **values)

        StatusFile.phase = phase  # type: ignore[assignment, method-assign]


def do(job: dict[str, Any]) -> dict[str, Any]:
    return _rates(job) if "products" in job else _run(Path(job["folder"]))


def _run(folder: Path) -> dict[str, Any]:
    clock.cpu.clear()
    if "torch" in sys.modules:
        _device_bytes()
    if (code := main([str(folder)])) != 0:
        raise SystemExit(code)
    clock.enter(None)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    if summary.get("reference", {}).get("cached"):
        raise SystemExit("some of the reference was there already: nothing to time")
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return {
        "reference": summary["seconds"]["reference"],
        "training": summary["seconds"]["training"],
        "cpu": sum(clock.cpu.get(name, 0.0) for name in TIMED),
        "steps": [json.loads(line) for line in lines],
        "forward": summary["forward"]["kind"],
        "why": summary["forward"]["why"],
        "device_bytes": _device_bytes(),
    }


def _device_bytes() -> int | None:
    """The most that an accelerator held since this was last asked."""
    import torch

    if not torch.cuda.is_available():
        return None
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def _rates(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from torch import Tensor

    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "linear": torch.nn.functional.linear,
        # torch itself takes this one for bfloat16 only.
        "onednn": lambda states, weight: torch.ops.mkldnn._linear_pointwise(
            states, weight, None, "none", [], None
        ),
    }
    rates: dict[str, list[float | None]] = {name: [] for name in ways}
    for rows, inputs, outputs in job["products"]:
        options: Any = {
            "dtype": getattr(torch, job["dtype"]),
            "device": job["device"],
        }
        states = torch.randn(rows, inputs, **options)
        weight = torch.randn(outputs, inputs, **options)
        operations = 2.0 * rows * inputs * outputs
        for name, product in ways.items():
            seconds = _best(partial(product, states, weight), job["seconds"])
            rates[name].append(operations / seconds if seconds else None)
    return {"rates": rates}


def _best(product: Callable[[], object], seconds: float) -> float | None:
    """Seconds of the quickest of as many calls as fit in `seconds`; the first warms up.

    An accelerator gets some at once: waiting for each would be timed too.
    """
    import torch

    try:
        product()
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    on_gpu = torch.cuda.is_available()
    calls = CALLS_AT_ONCE if on_gpu else 1
    best = float("inf")
    end = time.monotonic() + seconds
    while best == float("inf") or time.monotonic() < end:
        if on_gpu:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _call in range(calls):
            product()
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - begun) / calls)
    return best


clock = PhaseClock()

if __name__ == "__main__":
    clock.follow()
    serve(do)

"""What the machine has, what this process took of it, and a way onto its device."""

import ctypes
import gc
import resource
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from training.dpo.distributed import local_world_size

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

KEPT_UP_TO = 1 << 25
"""Bytes; the most that every glibc takes. Larger blocks are mapped and given back."""


def device_memory(device: torch.device) -> int:
    """Bytes of memory the device has for this process.

    Of the machine's, in all (a container's limit counts), its part of the run's
    processes; of a GPU's what is free or its own: vLLM may hold the rest.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(file.readline().split()[1]) * 1024
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        limit = total
    return max(resource.getpagesize(), min(total, limit) // local_world_size())


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: on the GPU by tensors, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed, from now on; nothing for another malloc.

    Tensors of some MiB come and go thousands of times a step. By itself it gives those at
    the heap's end back each time and maps large ones anew: half of a run's page faults.
    What outlives its use goes by `give_back_memory`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_UP_TO)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory() -> None:
    """Give the system what is free inside the heap, where malloc is glibc's.

    It keeps what the self-check or another phase's passes took, some tens of MiB, while
    passes of other sizes take memory of their own. Too slow for every step.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """(len,) int64 on `device`. A GPU's copy is queued behind its work, not waited for:
    it comes from pinned memory, which torch keeps until the copy is done."""
    made = torch.tensor(values, dtype=torch.long)
    if device.type == "cpu":
        return made
    return made.pin_memory().to(device, non_blocking=True)

"""Several processes of one run, as torchrun starts them: who does what, how they agree.

Every process reads the same files and walks through the same steps. Of a step's pairs
each takes its share; gradients are summed, figures gathered; process 0 alone writes.
With one process every function here is the identity. How the processes end together is
`ending.py`'s, sharded weights are `sharding.py`'s.
"""

import datetime
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from training.dpo.errors import TrainerError
from training.dpo.lock import folder_lock

PATIENCE = datetime.timedelta(hours=1)
"""What one process may be behind the others, reading or saving, before all give up. A
process that dies is noticed at once: its connections close."""

GLOO = "gloo_in_turn"
"""gloo with one thread a group. With its usual two, torch (2.13 and before) has both write
the name of what they did into one string without a lock, and a name of more than 15
letters, as those of sharded weights have, is now and then freed twice."""

_control: dist.ProcessGroup | None = None
"""Carries agreements and figures, on the CPU even where gradients go between GPUs."""


def _gloo(
    store: dist.Store, rank: int, size: int, timeout: datetime.timedelta
) -> dist.ProcessGroupGloo:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    named = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")
    options._devices = [
        dist.ProcessGroupGloo.create_device(interface=name)
        if name
        else dist.ProcessGroupGloo.create_default_device()
        for name in named
    ]
    options._threads = 1
    options._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, size, options)


dist.Backend.register_backend(GLOO, _gloo, devices=["cpu"])


def join() -> None:
    """Meet the other processes of this run; nothing where torchrun started only one.

    Raises TrainerError where there are more processes than GPUs.
    """
    global _control
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    backend = GLOO
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise TrainerError(
                f"torchrun started process {local} on a machine of"
                f" {torch.cuda.device_count()} GPUs; give --nproc-per-node at most that."
            )
        torch.cuda.set_device(local)
        backend = f"cpu:{GLOO},cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    _control = dist.new_group(backend=GLOO, timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes. They must not wait for this one any more."""
    global _control
    if dist.is_initialized():
        dist.destroy_process_group()
    _control = None


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def gathered(value: Any) -> list[Any]:
    """Every process's `value`, by rank, on every process."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value, group=_control)
    return values


def from_main(value: Any) -> Any:
    """Process 0's `value`, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def any_rank(flag: bool) -> bool:
    """Whether any process says yes."""
    return any(gathered(flag))


def shared_out(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Positions of the items that each of `ranks` processes takes.

    The dearest first, each to the process that has least so far, so the same answer
    everywhere. A process may get none.
    """
    parts: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        least = loads.index(min(loads))
        parts[least].append(place)
        loads[least] += costs[place]
    return [sorted(part) for part in parts]


def my_share(costs: Sequence[int]) -> list[int]:
    """Positions of the items that this process takes, ascending."""
    return shared_out(costs, world_size())[rank()]


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes, in one message.

    A process without pairs takes part with zeros. Sharded weights are left out: their
    gradients are summed on the way (`sharding.py`).
    """
    if world_size() == 1:
        return
    whole = [p for p in parameters if not isinstance(p, DTensor)]
    if not whole:
        return
    flat = torch.cat([_gradient(p).reshape(-1) for p in whole])
    dist.all_reduce(flat)
    for parameter, summed in zip(
        whole, flat.split([p.numel() for p in whole]), strict=True
    ):
        parameter.grad = summed.view_as(parameter)


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def summed(values: Tensor) -> Tensor:
    """The sum of every process's `values` (on the CPU)."""
    if world_size() > 1:
        dist.all_reduce(values, group=_control)
    return values


def merge(figures: Any) -> None:
    """Give an object that collects the figures of pairs those of every process.

    Its lists hold a value for each pair of its list `indexes`; they are joined and put
    in the order of the pairs. Its numbers are added up, and so each value of its
    dictionaries; other attributes are the same everywhere.
    """
    mine = {
        name: value
        for name, value in vars(figures).items()
        if isinstance(value, list | dict | int | float)
    }
    parts = gathered(mine)
    places = [index for part in parts for index in part["indexes"]]
    order = sorted(range(len(places)), key=places.__getitem__)
    for name in mine:
        setattr(figures, name, _together([part[name] for part in parts], order))


def _together(values: list[Any], order: Sequence[int]) -> Any:
    if isinstance(values[0], dict):
        # A process without pairs lacks the keys that pairs bring.
        keys = dict.fromkeys(key for value in values for key in value)
        found = {key: [v[key] for v in values if key in v] for key in keys}
        return {key: _together(found[key], order) for key in keys}
    if isinstance(values[0], list):
        joined = [value for part in values for value in part]
        return [joined[place] for place in order]
    return sum(values)


def local_world_size() -> int:
    """How many processes of the run share this machine and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """`folder_lock`, taken by process 0 for all; its refusal is raised by all."""
    with ExitStack() as held:
        refusal = None
        if is_main():
            try:
                held.enter_context(folder_lock(run_dir))
            except TrainerError as error:
                refusal = error
        refusal = from_main(refusal)
        if refusal is not None:
            raise refusal
        yield

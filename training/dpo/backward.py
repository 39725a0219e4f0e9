"""Gradients of the passes that make up an optimizer step, added up in their order.

Leaves out the losses; see `step.py`, `answer_step.py` and `sft.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from training.dpo.run_state import Run

Part = TypeVar("Part")
Result = TypeVar("Result")


def backward_each(
    run: Run,
    loss_of: Callable[[Part], tuple[Tensor, Result]],
    parts: Sequence[Part],
) -> Iterator[Result]:
    """Add the gradient of each part's loss to what trains, and yield the rest of what
    `loss_of` gave.
    """
    if min(run.engine.lanes, len(parts)) <= 1:
        # Sharded weights take their gradients this way only.
        for part in parts:
            loss, result = loss_of(part)
            loss.backward()
            yield result
        return
    trained = list(run.parameters.values())

    def gradients(part: Part) -> tuple[Sequence[Tensor | None], Result]:
        loss, result = loss_of(part)
        return torch.autograd.grad(loss, trained, allow_unused=True), result

    for found, result in run.engine.each(gradients, parts):
        for parameter, gradient in zip(trained, found, strict=True):
            if gradient is not None:
                _add(parameter, gradient)
        yield result


def _add(parameter: torch.nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is None:
        # As the parameter lies in memory: fused AdamW looks at nothing else.
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad += gradient

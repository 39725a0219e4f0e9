"""Gradient checkpointing for the layers of transformers.

Each layer keeps its input and runs again when the backward pass comes to it. transformers'
own switch needs layers in training mode, which would turn on the base's dropout, and would
run them again without what a pass tells our attention. Leaves out our own layers, which do
it themselves (`layers.py`), and when it pays (`defaults.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def recomputing(
    model: Any, again: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[None]:
    """While it lasts, `model`'s layers keep their input only; `again` holds when they
    run again, which is after it ended. Layers that transformers cannot checkpoint stay.
    """
    # Of layers that are replaced, what stands in their place.
    layers = [
        (module, vars(module).get("forward"))
        for module in model.modules()
        if isinstance(module, GradientCheckpointingLayer)
    ]
    for layer, _ in layers:
        layer.forward = partial(
            checkpoint,
            layer.forward,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), again()),
        )
    try:
        yield
    finally:
        for layer, before in layers:
            del layer.forward
            if before is not None:
                layer.forward = before

"""Mends one fault of vLLM 0.32's CPU build, in vLLM's own processes.

A batch may mix requests of the base and of adapters. Rows of the base carry adapter
index -1, which the CPU's LoRA operators use as an index: the base then answers with the
adapter in the last slot (vllm pull requests 48421 and 49656, both open). Here such rows
go in as zeros, so that nothing is added to them. The GPU's kernels skip them already.
test_real_vllm.py fails without it; delete this file when it no longer does.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

OPERATORS = "vllm.lora.ops.torch_ops.lora_ops"
NAMES = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")


class Mending(importlib.abc.MetaPathFinder):
    """Put first in sys.meta_path, it mends OPERATORS as soon as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != OPERATORS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_mend(module: ModuleType) -> None:
            execute(module)
            for name in NAMES:
                setattr(module, name, skipping_the_base(getattr(module, name)))

        spec.loader.exec_module = execute_and_mend  # type: ignore[method-assign]
        return spec


def skipping_the_base(operator: Callable[..., None]) -> Callable[..., None]:
    """The operator, adding nothing to rows whose adapter index is -1.

    Takes what the operators take: inputs (rows, in), stacked adapter weights, output
    (rows, out), adapter indices (rows), then their own options.
    """

    @functools.wraps(operator)
    def mended(
        inputs: Any, weights: Any, output: Any, indices: Any, *args: Any, **kwargs: Any
    ) -> None:
        adapted = indices >= 0
        if not bool(adapted.all()):
            inputs = inputs.where(adapted[:, None], inputs.new_zeros(()))
            indices = indices.clamp(min=0)
        operator(inputs, weights, output, indices, *args, **kwargs)

    return mended


def install() -> None:
    sys.meta_path.insert(0, Mending())

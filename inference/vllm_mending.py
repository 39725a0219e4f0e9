"""Mends the LoRA operators and the cache of vLLM 0.32's CPU build, in vLLM's own processes.

The operators have one fault and one cost. A batch may mix requests of the base and of
adapters: rows of the base carry adapter index -1, which the operators use as an index, so
the base answers with the adapter in the last slot (vllm pull requests 48421 and 49656, both
open). And they copy an adapter's matrix once for each row, to multiply it with that row
alone. Here the rows of one adapter are one product, in place, and rows of the base none.

What is no number stays in the cache of keys and values after its request has ended, and
attention reads a block of it whole, times zero beyond a request's end, which is no number
again: one damaged adapter, and the base answers nothing any more. So none gets in.

test_real_vllm.py fails without either; delete what vLLM no longer needs. GPUs have kernels
of their own.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

OPERATORS = "vllm.lora.ops.torch_ops.lora_ops"
CACHE = "vllm._custom_ops"


class Mending(importlib.abc.MetaPathFinder):
    """Put first in sys.meta_path, it mends the modules as soon as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        mend = {OPERATORS: _mend_operators, CACHE: _mend_cache}.get(fullname)
        if mend is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_mend(module: ModuleType) -> None:
            execute(module)
            mend(module)

        spec.loader.exec_module = execute_and_mend  # type: ignore[method-assign]
        return spec


def _mend_operators(module: ModuleType) -> None:
    for operator in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        setattr(module, operator.__name__, operator)


def _mend_cache(module: ModuleType) -> None:
    write = module.cpu_attn_reshape_and_cache

    def write_numbers(key: Any, value: Any, *args: Any, **options: Any) -> None:
        write(key.nan_to_num_(), value.nan_to_num_(), *args, **options)

    module.cpu_attn_reshape_and_cache = write_numbers  # type: ignore[attr-defined]


def bgmv_shrink(
    inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0
) -> None:
    """output[i, :r] = scaling · A[indices[i]] inputs[i], zero for rows of the base.

    inputs (rows, in), weights (slots, 1, r, in), output (rows, r or more), indices (rows).
    """
    for rows, a in _by_adapter(weights, indices):
        if a is None:
            output[rows] = 0
        else:
            found = inputs[rows].to(output.dtype) @ a.to(output.dtype).T
            output[rows, : len(a)] = found.mul_(scaling)


def bgmv_expand(
    inputs: Any, weights: Any, output: Any, indices: Any, add_inputs: bool = True
) -> None:
    """output[i, :out] += B[indices[i]] inputs[i], or = where not `add_inputs`.

    inputs (rows, r), weights (slots, 1, out, r). Adapter and model may fill up what they
    give to different widths: the narrower counts.
    """
    width = min(weights.shape[-2], output.shape[1])
    bgmv_expand_slice(inputs, weights, output, indices, 0, width, add_inputs)


def bgmv_expand_slice(
    inputs: Any,
    weights: Any,
    output: Any,
    indices: Any,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """`bgmv_expand` into the `slice_size` columns of output from `slice_offset` on."""
    columns = slice(slice_offset, slice_offset + slice_size)
    for rows, b in _by_adapter(weights, indices):
        found: Any = 0
        if b is not None:
            found = inputs[rows].to(output.dtype) @ b[:slice_size].to(output.dtype).T
        if not add_inputs:
            output[rows, columns] = found
        elif b is not None:
            output[rows, columns] += found


def _by_adapter(weights: Any, indices: Any) -> Iterator[tuple[Any, Any]]:
    """(rows, the matrix they go through, None for the base) of each adapter of a batch."""
    matrices = weights.squeeze(1) if weights.dim() == 4 else weights

    def matrix(index: int) -> Any:
        return matrices[index] if index >= 0 else None

    if not len(indices):
        return
    first = int(indices[0])
    if bool((indices == first).all()):  # As nearly always: one policy is sampled.
        yield slice(None), matrix(first)
        return
    for index in indices.unique().tolist():
        yield (indices == index).nonzero()[:, 0], matrix(index)


def install() -> None:
    sys.meta_path.insert(0, Mending())

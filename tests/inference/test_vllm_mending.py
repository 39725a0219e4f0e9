"""Rows of the base get nothing of any adapter; rows of adapters get all of theirs."""

import pytest
import torch

from inference.vllm_mending import skipping_the_base


def shrink(inputs, weights, output, indices, scaling=1.0):
    """As vLLM's operator works: the row's own adapter, picked by its index."""
    output[:] = scaling * torch.einsum("bi,boi->bo", inputs, weights[indices])


def expand(inputs, weights, output, indices, add_inputs=True):
    values = torch.einsum("bi,boi->bo", inputs, weights[indices])
    output[:] = output + values if add_inputs else values


WEIGHTS = torch.tensor([[[1.0, 0.0]], [[10.0, 0.0]], [[100.0, 0.0]]])
INPUTS = torch.tensor([[2.0, 5.0], [3.0, 5.0], [float("inf"), 5.0]])
INDICES = torch.tensor([0, 1, -1])


def test_the_fault_is_real_without_it():
    """Index -1 picks the last adapter: 100 x 4."""
    output = torch.zeros(1, 1)
    shrink(torch.tensor([[4.0, 0.0]]), WEIGHTS, output, torch.tensor([-1]))
    assert output.tolist() == [[400.0]]


def test_rows_of_the_base_shrink_to_zero_whatever_they_hold():
    """Row 0: 1 x 2; row 1: 10 x 3; both doubled by the scaling."""
    output = torch.full((3, 1), 7.0)
    skipping_the_base(shrink)(INPUTS, WEIGHTS, output, INDICES, scaling=2.0)
    assert output.tolist() == [[4.0], [60.0], [0.0]]


@pytest.mark.parametrize(("add", "last"), [(True, 7.0), (False, 0.0)])
def test_rows_of_the_base_keep_their_output_when_it_is_added_to(add, last):
    output = torch.full((3, 1), 7.0)
    skipping_the_base(expand)(INPUTS, WEIGHTS, output, INDICES, add)
    assert output[2, 0] == last
    assert output[0, 0] == (9.0 if add else 2.0)


def test_a_batch_without_the_base_goes_through_untouched():
    seen = []
    skipping_the_base(lambda *args: seen.append(args))(
        INPUTS, WEIGHTS, None, torch.tensor([0, 1, 2])
    )
    assert seen[0][0] is INPUTS

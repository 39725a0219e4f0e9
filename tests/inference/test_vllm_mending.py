"""What the operators give, held against vLLM's own formula; numbers are small integers.

Weights (slots, 1, out, in): three adapters, each ten times the one before. That vLLM's
processes really use them, and that answers are the trained policy's, is in test_real_vllm.py.
"""

import pytest
import torch

from inference.vllm_mending import bgmv_expand, bgmv_expand_slice, bgmv_shrink

WEIGHTS = torch.tensor([1.0, 10.0, 100.0])[:, None, None, None] * torch.tensor(
    [[1.0, 2.0], [3.0, 4.0]]
)
INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
MIXED = torch.tensor([0, 2, 0])


def own_formula(indices):
    """vLLM's own: each row's copy of its adapter's matrix."""
    return torch.einsum("bi,boi->bo", INPUTS, WEIGHTS[indices].squeeze(1))


@pytest.mark.parametrize("indices", [[1, 1, 1], [0, 2, 0], [2, 1, 0]])
def test_without_the_base_they_give_what_vllms_own_do(indices):
    indices = torch.tensor(indices)
    expected = own_formula(indices)
    shrunk = torch.full((3, 4), 7.0)
    bgmv_shrink(INPUTS, WEIGHTS, shrunk, indices, 2.0)
    assert shrunk[:, :2].tolist() == (2 * expected).tolist()
    assert shrunk[:, 2:].tolist() == [[7.0, 7.0]] * 3
    added = torch.full((3, 2), 7.0)
    bgmv_expand(INPUTS, WEIGHTS, added, indices)
    assert added.tolist() == (7 + expected).tolist()


def test_a_slice_of_the_columns_alone_is_written():
    """Row 0: 1, 3; row 1: 200, 400; row 2: 3, 7."""
    output = torch.zeros(3, 4)
    bgmv_expand_slice(INPUTS, WEIGHTS, output, MIXED, 1, 2)
    assert output.tolist() == [[0, 1, 3, 0], [0, 200, 400, 0], [0, 3, 7, 0]]


@pytest.mark.parametrize("width", [1, 3])
def test_of_two_widths_the_narrower_counts(width):
    output = torch.zeros(3, width)
    bgmv_expand(INPUTS, WEIGHTS, output, MIXED)
    assert output[:, :2].tolist() == own_formula(MIXED)[:, :width].tolist()


@pytest.mark.parametrize("indices", [[0, -1, 1], [-1, -1, -1]])
def test_rows_of_the_base_get_nothing_whatever_they_hold(indices):
    indices = torch.tensor(indices)
    is_base = indices < 0
    inputs = INPUTS.where(~is_base[:, None], torch.inf)
    for scaled in (1.0, 2.0):
        shrunk = torch.full((3, 2), 7.0)
        bgmv_shrink(inputs, WEIGHTS, shrunk, indices, scaled)
        assert not shrunk[is_base].any()
    for add, kept in ((True, 7.0), (False, 0.0)):
        output = torch.full((3, 2), 7.0)
        bgmv_expand(inputs, WEIGHTS, output, indices, add)
        assert set(output[is_base].flatten().tolist()) == {kept}
        assert torch.isfinite(output).all()


def test_sums_are_in_the_outputs_precision():
    """vLLM's buffer is float32 beside bfloat16 weights: 256 + 1 is 256 in bfloat16."""
    weights = torch.tensor([[[[256.0, 1.0]]]], dtype=torch.bfloat16)
    shrunk = torch.zeros(1, 1)
    inputs = torch.ones(1, 2, dtype=torch.bfloat16)
    bgmv_shrink(inputs, weights, shrunk, torch.tensor([0]))
    assert shrunk.item() == 257.0


def test_one_row_of_indices_stands_for_all_rows():
    output = torch.zeros(3, 2)
    bgmv_expand(INPUTS, WEIGHTS, output, torch.tensor([1]))
    assert output.tolist() == own_formula(torch.tensor([1, 1, 1])).tolist()


def test_a_batch_of_no_rows_is_nothing_to_do():
    output = torch.zeros(0, 2)
    bgmv_expand(INPUTS[:0], WEIGHTS, output, MIXED[:0])
    assert output.shape == (0, 2)

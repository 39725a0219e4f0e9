"""The GPU's attention along a tree, as far as a CPU can tell: the mask is the tree's, the
operator's own (uncompiled) numbers and gradients are masked attention's, and every model
that runs along a tree gives those of plain rows. Where there is a GPU one model runs on it,
through the compiled kernel.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from torch._higher_order_ops.flex_attention import flex_attention as operator
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from tests.training.dpo.test_engine import (
    FAMILIES,
    assert_alike,
    make_model,
    make_rows,
    scored,
)
from tests.training.dpo.test_tree import ROWS
from training.dpo import flex, tree_attention
from training.dpo.batches import Layout, Row
from training.dpo.check import make_engine
from training.dpo.config import Savings
from training.dpo.forward import Engine
from training.dpo.tree import build_tree

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_the_cpu():
    """Not here: where there is a GPU it is wanted."""


def uncompiled(q, k, v, *, block_mask, scale, enable_gqa):
    """torch's own operator on a CPU, gradients too, which `flex_attention` refuses."""
    assert enable_gqa == (q.shape[1] != k.shape[1])
    wanted = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}
    mask = block_mask.as_tuple()
    return operator(q, k, v, lambda score, *_: score, mask, scale, wanted)[0]


def long_rows(count, seed=0):
    """Answers to a few prompts, with beginnings in common: some `count` tokens."""
    rng = random.Random(seed)
    rows, prompt = [], []
    while sum(len(row.ids) for row in rows) < count:
        if len(rows) % 3 == 0:
            prompt = [rng.randrange(97) for _ in range(rng.randint(20, 250))]
        answer = [rng.randrange(97) for _ in range(rng.randint(5, 150))]
        old = rows[-1].ids[: len(prompt) + 30] if len(rows) % 3 == 1 else prompt
        rows.append(Row(old + answer, len(prompt)))
    return rows


def dense(tree):
    """Who sees whom by walking the segments, fillers themselves: (P', P') bool."""
    seen = torch.eye(flex.packed_length(len(tree.ids)), dtype=torch.bool)
    size = len(tree.ids)
    seen[:size, :size] = tree_attention.dense_mask(tree)[0, 0, :size, :size]
    return seen


@settings(max_examples=100, deadline=None)
@given(ROWS, st.sampled_from([None, 1, 4]))
def test_a_key_is_seen_from_itself_to_the_end_of_what_descends_from_it(rows, least):
    tree = build_tree(rows, least)
    at = torch.arange(flex.packed_length(len(tree.ids)))
    seen = (at <= at[:, None]) & (at[:, None] < torch.tensor(flex.ends_of(tree)))
    assert seen.equal(dense(tree))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 1500), st.integers(0, 1000))
def test_the_blocks_are_those_that_torch_finds_by_looking_at_every_product(count, seed):
    tree = build_tree(long_rows(count, seed))
    mine = flex.tree_block_mask(tree, CPU)
    size = flex.packed_length(len(tree.ids))
    theirs = create_block_mask(mine.mask_mod, None, None, size, size, "cpu")
    assert mine.shape == theirs.shape and mine.BLOCK_SIZE == theirs.BLOCK_SIZE
    for one, other in zip(mine.as_tuple()[2:-1], theirs.as_tuple()[2:-1], strict=True):
        same = one.equal(other) if isinstance(one, torch.Tensor) else one == other
        assert same


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=["each", "grouped"])
def test_values_and_gradients_are_those_of_masked_attention(monkeypatch, heads):
    monkeypatch.setattr(flex, "kernel", lambda: uncompiled)
    tree = build_tree(long_rows(500))
    size = flex.packed_length(len(tree.ids))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, count, size, 16, generator=generator).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    )
    got = flex.attend(q, k, v, flex.tree_block_mask(tree, CPU), 0.3)
    wanted = scaled_dot_product_attention(
        q, k, v, attn_mask=dense(tree), scale=0.3, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn(got.shape, generator=generator)
    mine, theirs = (
        torch.autograd.grad((out * weights).sum(), (q, k, v)) for out in (got, wanted)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The attention is the one that a GPU gets."""
    chosen = tree_attention.attention_way

    def way(device_type, split):
        return chosen("cuda", split)

    monkeypatch.setattr(tree_attention, "attention_way", way)
    monkeypatch.setattr("training.dpo.forward.attention_way", way)


RUNS = [(name, "cpu") for name, family in FAMILIES.items() if family[2] != "rows"]
if torch.cuda.is_available():
    # The compiled kernel itself; of these models one has heads large enough for it.
    RUNS.append(("qwen3", "cuda"))


@pytest.mark.parametrize(("family", "device"), RUNS)
def test_models_give_the_scores_and_gradients_of_plain_rows(
    as_on_gpu, monkeypatch, family, device
):
    if device == "cpu":
        monkeypatch.setattr(flex, "kernel", lambda: uncompiled)
    model, layout = make_model(family).to(device), Layout(512, None, 0)
    savings = Savings(fused_layers=False)
    engine = make_engine(model, layout, savings, make_rows(), 128)
    assert engine.kind == "tree", engine.why
    wanted = scored(Engine(model, layout), make_rows())
    assert_alike(scored(engine, make_rows()), wanted)


def test_where_the_kernel_fails_plain_rows_are_taken_and_the_reason_told(
    as_on_gpu, monkeypatch
):
    """Here its gradient fails in earnest: torch has none of it on a CPU. The forward pass
    alone would be compiled there, which takes long: torch's operator stands in."""

    def kernel(q, *others, **more):
        run = flex_attention if q.requires_grad else uncompiled
        return run(q, *others, **more)

    monkeypatch.setattr(flex, "kernel", lambda: kernel)
    model, savings = make_model("llama"), Savings(fused_layers=False)
    layout = Layout(512, None, 0)
    engine = make_engine(model, layout, savings, make_rows(), 128)
    assert engine.kind == "rows"
    assert "tree: NotImplementedError: FlexAttention does not support" in engine.why
    assert_alike(
        scored(engine, make_rows()), scored(Engine(model, layout), make_rows())
    )


def test_another_tree_of_another_length_is_not_compiled_again():
    compiled = flex.kernel("eager")
    graphs = []
    for count in (100, 500, 900, 1300, 1700):
        tree = build_tree(long_rows(count))
        mask = flex.tree_block_mask(tree, CPU)
        size = flex.packed_length(len(tree.ids))
        q, k, v = (torch.randn(1, heads, size, 16) for heads in (6, 2, 2))
        with torch.no_grad():
            got = compiled(q, k, v, block_mask=mask, scale=0.25, enable_gqa=True)
            wanted = scaled_dot_product_attention(
                q, k, v, attn_mask=dense(tree), scale=0.25, enable_gqa=True
            )
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert len(set(graphs)) == 1, graphs


@pytest.mark.parametrize(
    ("device", "split", "way"),
    [
        ("cuda", True, "flex"),
        ("cpu", True, "segments"),
        ("cuda", False, "mask"),
        ("cpu", False, "mask"),
    ],
)
def test_a_gpu_gets_flex_attention_and_a_cpu_segments(device, split, way):
    assert tree_attention.attention_way(device, split) == way


def test_packed_sequences_are_filled_up_to_whole_blocks():
    assert [flex.packed_length(n) for n in (1, 384, 385, 16_384)] == [
        *(384, 384, 512, 16_384)
    ]

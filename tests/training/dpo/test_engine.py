"""Every way of a forward pass and every saving against plain rows of transformers."""

import copy
import random
from dataclasses import asdict, replace

import peft
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from training.dpo.attention import (
    SPARE_KEYS,
    attend,
    attend_backward,
    plan_attention,
)
from training.dpo.batches import Layout, Row, pair_rows
from training.dpo.check import check_rows, make_engine
from training.dpo.config import Savings
from training.dpo.data import Pair
from training.dpo.errors import TrainerError
from training.dpo.forward import Engine
from training.dpo.linear import plain_product
from training.dpo.tree import build_tree

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}, "fused"),
    "qwen2": (transformers.Qwen2Config, {}, "fused"),  # biases
    "qwen3": (transformers.Qwen3Config, {"head_dim": 16}, "fused"),  # norms of q and k
    "granite": (
        *(transformers.GraniteConfig, {"residual_multiplier": 0.5}, "tree"),
    ),  # its parts are Llama's, its numbers are not
    "gpt2": (
        transformers.GPT2Config,
        {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 2},
        "tree",
    ),
    "gemma2": (
        *(transformers.Gemma2Config, {"head_dim": 8, "sliding_window": 16}, "rows"),
    ),
    "bloom": (
        *(transformers.BloomConfig, {"vocab_size": 97, "hidden_size": 32}, "rows"),
    ),  # positions by distance
}
OFF = [
    {},
    {"pack": False},
    {"share_prefixes": False},
    {"split_attention": False},
    {"fused_layers": False},
    {"skip_unscored": False},
    {"fast_products": False},
    {"side_by_side": False},  # of one pass the same; see test_lanes.py
    {"checkpointing": True},
]


def make_model(family, dtype=torch.float32, dropout=0.0):
    """A random model whose adapter, biases and norms are random too."""
    kind, more, _ = FAMILIES[family]
    torch.manual_seed(0)
    shape = more if family in ("gpt2", "bloom") else SHAPE | more
    model = transformers.AutoModelForCausalLM.from_config(kind(**shape))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.requires_grad_(False).to(dtype)
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules="all-linear",
        init_lora_weights=False,
        lora_dropout=dropout,
    )
    model = peft.get_peft_model(model, lora).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() * 0.3
    return model


def make_rows():
    """Two pairs of one prompt of 70 tokens, one of another; answers that begin alike."""
    rng = random.Random(1)

    def ids(count):
        return [rng.randrange(97) for _ in range(count)]

    prompt, answer = ids(70), ids(30)
    rows = [Row(prompt + answer, 70), Row(prompt + answer[:20] + ids(25), 70)]
    rows += [Row(prompt + ids(40), 70), Row(prompt + ids(3), 70)]
    return [*rows, Row(prompt[:40] + ids(20), 50), Row(ids(1) + ids(1), 1)]


def engine_of(model, max_tokens=512, lanes=1, **savings):
    chosen = Savings(**savings)
    return make_engine(
        *(model, Layout(max_tokens, None, 0, lanes), chosen, make_rows(), 128),
        keeps_input_only=chosen.checkpointing is True,
    )


def scored(engine, rows):
    """(scores, gradients by name) of a loss with another weight for each token."""
    named = {n: p for n, p in engine.model.named_parameters() if p.requires_grad}
    scores = engine.score(rows)
    logps = scores.token_logps
    weights = torch.linspace(-1, 1, len(logps), device=logps.device)
    found = torch.autograd.grad((logps * weights).sum(), named.values())
    return scores, dict(zip(named, found, strict=True))


def assert_alike(got, wanted):
    """float32: log-probs 1e-5 relative a row, gradients 1e-4 by norm."""
    (scores, gradients), (plain, plain_gradients) = got, wanted
    assert scores.lengths == plain.lengths
    torch.testing.assert_close(scores.logps, plain.logps, rtol=1e-5, atol=1e-5)
    for name in ("token_logps", "entropy", "mean_logit"):
        mine, theirs = getattr(scores, name), getattr(plain, name)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert (scores.is_top1 == plain.is_top1).all()
    for name, gradient in gradients.items():
        other = plain_gradients[name]
        assert (gradient - other).norm() <= 1e-4 * other.norm(), name


@pytest.fixture(scope="module")
def plain():
    """{family: (model, scores and gradients of plain rows)}"""
    made = {}
    for family in FAMILIES:
        model = make_model(family)
        made[family] = model, scored(Engine(model, Layout(512, None, 0)), make_rows())
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("off", OFF, ids=lambda off: "-".join(off) or "all")
def test_no_saving_changes_scores_or_gradients(plain, family, off):
    model, wanted = plain[family]
    engine = engine_of(copy.deepcopy(model), **off)
    if not off:
        assert engine.kind == FAMILIES[family][2], engine.why
    assert_alike(scored(engine, make_rows()), wanted)


def test_what_is_spared_is_not_computed():
    """Equal numbers do not show a saving that got lost on the way: operations do. Six rows
    of 460 tokens have 184 different ones, of which 109 predict a token of an answer."""

    def operations(**changed):
        engine = engine_of(make_model("llama"), fast_products=False, **changed)
        assert engine.kind == "fused", engine.why
        with FlopCounterMode(display=False) as counter:
            scored(engine, make_rows())
        return counter.get_total_flops()

    with_all = operations()
    assert operations(share_prefixes=False) > 1.4 * with_all
    assert operations(skip_unscored=False) > 1.05 * with_all
    assert operations(checkpointing=True) > 1.1 * with_all  # it costs, where on


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_without_its_adapter_the_model_is_the_base(plain, family):
    """And gives exactly the same with an adapter that changes nothing."""
    model = copy.deepcopy(plain[family][0])
    engine = engine_of(model)
    rows = make_rows()
    with torch.no_grad(), model.disable_adapter():
        base = engine.score(rows).logps
        wanted = Engine(model, engine.layout).score(rows).logps
    torch.testing.assert_close(base, wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert (engine.score(rows).logps - base).abs().max() > 1e-3
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
        assert torch.equal(engine.score(rows).logps, base)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_bfloat16_stays_near_plain_rows_in_bfloat16(family):
    """And gradients are float32, as the adapter is."""
    model = make_model(family, torch.bfloat16)
    engine = engine_of(model)
    assert engine.kind == "fused", engine.why
    scores, gradients = scored(engine, make_rows())
    plain, plain_gradients = scored(Engine(model, engine.layout), make_rows())
    assert scores.token_logps.dtype == torch.float32
    assert (scores.token_logps - plain.token_logps).abs().mean() < 0.05
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        other = plain_gradients[name]
        assert (gradient - other).norm() < 0.2 * other.norm(), name


def test_attention_in_bfloat16_rounds_what_it_multiplies_and_no_scores():
    """Scores of some ±24 rounded to bfloat16 (8 bits) would move an outcome by 2⁻⁵;
    what is multiplied again moves it by its own rounding, some 2⁻⁹."""
    tree = build_tree(make_rows())
    plan, count = plan_attention(tree), len(tree.ids)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape, scale=1.0):
        values = torch.randn(*shape, generator=generator) * scale
        return values.bfloat16()

    q = drawn(2, 2, count, 64, scale=12.0)
    k, v = (drawn(2, count + SPARE_KEYS, 64, scale=scale) for scale in (2.0, 1.0))
    weights = drawn(count, 2 * 2 * 64)

    def outcomes(dtype):
        given = [value.to(dtype) for value in (q, k, v)]
        how = (plan, 64**-0.5, plain_product)
        found = attend(*given, *how)
        gradients = attend_backward(weights.to(dtype), *given, *how)
        assert all(one.dtype == dtype for one in (found, *gradients))
        return [one.float() for one in (found, *gradients)]

    for rounded, exact in zip(
        outcomes(torch.bfloat16), outcomes(torch.float32), strict=True
    ):
        assert (rounded - exact).norm() < 2**-7 * exact.norm()


def test_layers_below_the_lowest_adapter_get_no_gradient():
    """Adapter on the second layer's down_proj alone: the first layer keeps nothing."""
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**SHAPE)
    ).requires_grad_(False)
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=["down_proj"],
        layers_to_transform=[1],
        init_lora_weights=False,
    )
    model = peft.get_peft_model(base, lora).eval()
    engine = engine_of(model)
    assert engine.kind == "fused", engine.why
    assert_alike(
        scored(engine, make_rows()),
        scored(Engine(model, engine.layout), make_rows()),
    )
    states = []
    layers = base.model.layers
    handle = layers[0].register_forward_hook(lambda *a: states.append(a[2]))
    engine.score(make_rows())
    handle.remove()
    assert not states[0].requires_grad


def test_adapter_dropout_and_trained_weights_go_through_transformers_layers():
    engine = engine_of(make_model("llama", dropout=0.1))
    assert (engine.kind, "dropout" in engine.why) == ("tree", True)
    whole = make_model("llama").merge_and_unload().requires_grad_(True)
    engine = engine_of(whole)
    assert engine.kind == "tree"
    assert_alike(
        scored(engine, make_rows()), scored(Engine(whole, engine.layout), make_rows())
    )


@pytest.mark.parametrize("kind", ["tree", "rows"])
def test_layers_of_transformers_run_again_instead_of_keeping(kind):
    """Twice each, the second time with the same dropout; what they keep is a fraction."""
    model = make_model("llama", dropout=0.1).train()
    engine = Engine(model, Layout(512, None, 0), kind=kind)
    runs, found, kept = [0], [], []
    norm = model.get_base_model().model.layers[1].input_layernorm

    def count(*of_hook):
        runs[-1] += 1

    def keep(tensor):
        kept[-1] += tensor.nbytes
        return tensor

    norm.register_forward_hook(count)
    for keeps_input_only in (False, True):
        kept.append(0)
        torch.manual_seed(5)
        chosen = replace(engine, keeps_input_only=keeps_input_only)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found.append(scored(chosen, make_rows()))
        runs.append(0)
    with torch.no_grad():
        chosen.score(make_rows())
    assert runs == [runs[0], 2 * runs[0], runs[0]]
    assert kept[1] < 0.5 * kept[0]
    assert_alike(*found)


def test_a_way_that_is_wrong_is_found_out(monkeypatch):
    """Attention without its scale differs; plain rows take over and say why."""
    from training.dpo import layers, tree_attention

    real = layers.attend

    def wrong(q, k, v, plan, scale, product):
        return real(q, k, v, plan, 1.0, product)

    model = make_model("llama")
    monkeypatch.setattr(layers, "attend", wrong)
    engine = engine_of(model)
    assert engine.kind == "tree"
    assert "log-probs differ" in engine.why
    monkeypatch.setattr(tree_attention.TreeAttention, "apply", lambda *a: 1 / 0)
    engine = engine_of(make_model("llama"))
    assert engine.kind == "rows"
    assert "ZeroDivisionError" in engine.why
    # The model is as it was: plain rows see transformers' own layers.
    again = scored(engine, make_rows())
    assert_alike(again, scored(Engine(make_model("llama"), engine.layout), make_rows()))


def test_a_head_that_is_not_known_is_refused():
    """Every way takes its logits from `head.py`: compared with each other they agree.
    Here the model doubles its own."""
    model = make_model("llama")
    assert engine_of(model).kind == "fused"
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(
        TrainerError, match="LlamaForCausalLM makes its logits in a way"
    ):
        engine_of(model)
    hook.remove()


@pytest.mark.parametrize(
    ("config", "rope", "kinds"),
    [
        (
            transformers.Phi3Config,
            {
                **{"rope_type": "longrope", "factor": 2.0},
                **{"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
            },
            ["tree", "rows"],
        ),
        (
            transformers.Ministral3Config,
            {
                **{"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.5},
                **{"beta_fast": 32.0, "beta_slow": 1.0},
            },
            ["fused", "tree"],
        ),
    ],
    ids=["longrope", "scaled queries"],
)
def test_beginnings_are_shared_up_to_where_positions_change(config, rope, kinds):
    """Phi-3 takes other frequencies for rows beyond the 256 tokens it was first made
    for, Ministral 3 scales the queries there, which our own layers do not: the check's
    rows are too short to show either."""
    first = {"original_max_position_embeddings": 256}
    rope = {"rope_theta": 1e4} | rope | first
    shape = {"head_dim": 8, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    if config is transformers.Phi3Config:
        shape |= first
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config(**SHAPE, **shape, rope_parameters=rope)
    )
    model.requires_grad_(False)
    found = [
        make_engine(model, Layout(512, None, 0), Savings(), make_rows(), longest).kind
        for longest in (256, 257)
    ]
    assert found == kinds


def test_a_row_keeps_its_positions_beside_a_longer_one():
    """Phi-3's: rows of 60 and 70 tokens are on the two sides of the 64 where its
    frequencies change, and would be padded into one."""
    shape = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    shape |= {"original_max_position_embeddings": 64}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.Phi3Config(**SHAPE, **shape, rope_parameters=rope)
    )
    engine = Engine(model.requires_grad_(False), Layout(512, None, 0))
    rng = random.Random(3)
    rows = [Row([rng.randrange(97) for _ in range(n)], 50) for n in (60, 70)]
    beside = engine.score(rows).token_logps
    alone = torch.cat([engine.score([row]).token_logps for row in rows])
    torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-5)


def test_the_check_has_every_kind_of_branch():
    tree = build_tree(check_rows(make_rows()))
    depth = [len(segment.before) for segment in tree.segments]
    assert len(tree.segments) >= 5
    assert max(depth) >= 1


@pytest.mark.parametrize("off", OFF, ids=lambda off: "-".join(off) or "all")
def test_the_pairs_of_a_step_are_all_there_once(plain, off):
    """Whatever the budget; a pair's two rows share a pass."""
    rng = random.Random(2)
    pairs = [Pair("x", n, [n % 3] * rng.randint(1, 60), [n], [n, n]) for n in range(20)]
    model = copy.deepcopy(plain["llama"][0])
    for budget in (10, 100, 1000):
        engine = engine_of(model, budget, **off)
        indexes = rng.sample(range(20), 12)
        parts = engine.split_pairs(pairs, indexes)
        assert sorted(sum(parts, [])) == sorted(indexes)
        rows = [pair_rows(pair) for pair in pairs]
        assert sorted(sum(engine.split(rows), [])) == list(range(20))


def test_every_saving_is_switched_off_once_in_these_tests():
    assert {name for off in OFF for name in off} == set(asdict(Savings()))

"""Every weight trained, and a base in 4 bits."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.dpo.runs import PAIRS, read_json, read_rows, train_here
from training.dpo.batches import Layout, Row
from training.dpo.canary import canary_token_ids, sequence_logprobs
from training.dpo.config import parse_config
from training.dpo.errors import TrainerError
from training.dpo.forward import Engine
from training.dpo.full import master_weights


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied head"])
def full_model(request, base_model):
    model = AutoModelForCausalLM.from_pretrained(base_model)
    if request.param:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    return model.eval()


def test_full_fine_tuning_writes_a_model_that_transformers_loads(make_run, base_model):
    run = make_run(
        held_out=PAIRS[:2], tuning="full", epochs=10, batch_size=3, learning_rate=1e-3
    )
    train_here(run)
    assert read_rows(run / "metrics.jsonl")[-1]["loss"] < 0.5
    assert not (run / "adapter").exists()
    model = AutoModelForCausalLM.from_pretrained(run / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    base = AutoModelForCausalLM.from_pretrained(base_model)
    for weight, before in zip(model.parameters(), base.parameters(), strict=True):
        assert weight.dtype == torch.float32 and not torch.equal(weight, before)
    ids = canary_token_ids(tokenizer, model.config.vocab_size)
    engine = Engine(model, Layout(max_tokens=1, max_pairs=1, pad_id=0))
    canary = read_json(run / "canary.json")
    for prompt, logprobs in zip(
        canary["prompts"], sequence_logprobs(engine, ids), strict=True
    ):
        assert prompt["logprobs"] == pytest.approx(logprobs, abs=1e-5)
        assert prompt["base_logprobs"] != pytest.approx(logprobs, abs=1e-2)
    hashes = read_json(run / "summary.json")["hashes"]
    assert "model/model.safetensors" in hashes and "model/config.json" in hashes


def test_gradients_reach_every_weight_as_transformers_own_do(full_model):
    """Against log softmax of the model's whole logits; the answers' first tokens are
    shared, and one answer is a single token."""
    rows = [
        Row([5, 6, 7, 8, 9, 10], 3),
        Row([5, 6, 7, 8, 11], 3),
        Row([12, 13, 14], 2),
    ]
    weights = master_weights(full_model)
    factors = torch.tensor([1.0, -0.5, 2.0])

    total = torch.zeros(())
    for row, factor in zip(rows, factors, strict=True):
        logits = full_model(torch.tensor([row.ids])).logits[0, :-1]
        logps = logits.log_softmax(-1)
        targets = torch.tensor(row.ids[1:])[:, None]
        total = total + factor * logps.gather(1, targets)[row.prompt_length - 1 :].sum()
    wanted = torch.autograd.grad(total, list(weights.values()))

    scores = Engine(full_model, Layout(64, None, 0)).score(rows)
    found = torch.autograd.grad((scores.logps * factors).sum(), list(weights.values()))
    for name, mine, theirs in zip(weights, found, wanted, strict=True):
        assert (mine - theirs).norm() < 1e-5 * theirs.norm(), name


def test_a_4_bit_base_without_bitsandbytes_is_refused_in_a_sentence(
    make_run, monkeypatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainerError, match="needs bitsandbytes .*pip install"):
        train_here(make_run(tuning="qlora"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tuning": "full", "parent_adapter": "a"}, "merge it into a base first"),
        ({"tuning": "qlora", "sharding": "full"}, "does not split 4-bit weights"),
        ({"sharding": "half"}, '"sharding" must be one of'),
    ],
)
def test_what_does_not_go_together_is_refused(values, words):
    with pytest.raises(TrainerError, match=words):
        parse_config({"base_model": "m"} | values)

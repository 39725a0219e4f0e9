"""Scoring answers: against the model's own logits, and the head's gradient."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from training.dpo import head
from training.dpo.batches import Layout, Row
from training.dpo.forward import Engine
from training.dpo.head import HeadLogps, unlikely_mass
from training.dpo.linear import onednn_product, plain_product


def score_rows(model, rows):
    """As plain rows, the way that suits every model."""
    return Engine(model, Layout(512, None, pad_id=0)).score(rows)


@pytest.fixture(scope="module")
def model(base_model):
    return AutoModelForCausalLM.from_pretrained(base_model).eval().requires_grad_(False)


def test_scores_are_those_of_the_models_own_logits(model):
    """Every answer token's log-prob, entropy, mean logit and top-1, row by row."""
    rows = [Row([5, 9, 40, 7, 81, 33], 3), Row([5, 9, 12], 2), Row([8, 60, 61, 62], 0)]
    scores = score_rows(model, rows)
    assert scores.lengths == [3, 1, 3]  # without a prompt the first token is given
    at = 0
    for row, start in zip(rows, (3, 2, 1), strict=True):
        logits = model(torch.tensor([row.ids])).logits[0, start - 1 : -1]
        targets = torch.tensor(row.ids[start:])
        log_probs = logits.log_softmax(-1)
        part = slice(at, at + len(targets))
        at += len(targets)
        wanted = log_probs[torch.arange(len(targets)), targets]
        torch.testing.assert_close(scores.token_logps[part], wanted)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(scores.entropy[part], entropy)
        torch.testing.assert_close(scores.mean_logit[part], logits.mean(-1))
        assert (scores.is_top1[part] == (logits.argmax(-1) == targets)).all()


def test_states_in_float32_meet_a_head_in_bfloat16():
    """Mamba's own way: it keeps its residuals in float32, whatever its weights are."""
    config = MambaConfig(
        hidden_size=32, state_size=4, num_hidden_layers=1, vocab_size=9
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    row = Row([5, 3, 4, 7, 8], 3)
    with torch.no_grad():
        found = score_rows(model, [row]).token_logps
        logits = model(torch.tensor([row.ids])).logits[0, 2:-1]
    wanted = logits.float().log_softmax(-1)[[0, 1], [7, 8]]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)


def test_padding_and_neighbours_do_not_touch_a_row(model):
    """A short row scores the same alone and beside a longer one."""
    short, longer = Row([5, 9, 12, 3], 2), Row([*range(3, 60)], 4)
    alone = score_rows(model, [short]).token_logps
    beside = score_rows(model, [longer, short]).token_logps[-2:]
    torch.testing.assert_close(alone, beside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.7, None), (2.0, 5.0)])
def test_the_heads_gradient_is_autograds(monkeypatch, scale, softcap):
    """Against log_softmax(softcap · tanh(scale · (hWᵀ + b) / softcap)), in blocks of 4
    tokens; frozen, and, in blocks of 2 states, as a head that trains."""
    monkeypatch.setattr(head, "LEAST_STATES", 2)
    monkeypatch.setattr(head, "LEAST_TOKENS", 4)
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", {"cpu": 2 * 11})
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 4, generator=generator, requires_grad=True)
    weight = torch.randn(11, 4, generator=generator)
    bias = torch.randn(11, generator=generator)
    targets = torch.tensor([0, 10, 3, 3, 7])
    upstream = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])

    how = (targets, scale, softcap, plain_product)
    logps, entropy, mean_logit, is_top1 = HeadLogps.apply(hidden, weight, bias, *how)
    (gradient,) = torch.autograd.grad((logps * upstream).sum(), hidden)

    trained = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    logits = scale * (hidden @ trained[0].T + trained[1])
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_probs = logits.log_softmax(-1)
    plain = log_probs[torch.arange(5), targets]
    inputs = (hidden, *trained)
    wanted = torch.autograd.grad((plain * upstream).sum(), inputs)
    torch.testing.assert_close(logps, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, wanted[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(entropy, -(log_probs.exp() * log_probs).sum(-1))
    torch.testing.assert_close(mean_logit, logits.mean(-1))
    assert (is_top1 == (logits.argmax(-1) == targets)).all()

    logps = HeadLogps.apply(*inputs, *how)[0]
    found = torch.autograd.grad((logps * upstream).sum(), inputs)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_of_equal_logits_the_first_counts_as_top(monkeypatch):
    """States that are zeros give equal logits everywhere: only id 0 is a hit, whether
    the other one is in its block of 4 tokens or in the next one."""
    monkeypatch.setattr(head, "LEAST_TOKENS", 4)
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", {"cpu": 4})
    hidden, weight = torch.zeros(3, 4), torch.ones(6, 4)
    targets = torch.tensor([0, 3, 5])
    got = HeadLogps.apply(hidden, weight, None, targets, 1.0, None, plain_product)
    assert got[3].tolist() == [True, False, False]


@pytest.mark.parametrize("at_once", [4, 2], ids=["whole", "in blocks"])
def test_what_goes_to_tokens_that_the_base_hardly_writes(monkeypatch, at_once):
    """Under 0.01 the base has 0.006 + 0.004 in the first place, nothing in the second;
    the policy gives those two tokens 0.25 + 0.15."""
    monkeypatch.setattr(head, "LEAST_TOKENS", at_once)
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", {"cpu": at_once})
    base = torch.tensor([[0.5, 0.006, 0.49, 0.004], [0.25, 0.25, 0.25, 0.25]])
    policy = torch.tensor([[0.3, 0.25, 0.3, 0.15], [0.97, 0.01, 0.01, 0.01]])
    # logits that are the logs of these, after a shift, a bias and a factor
    weight, bias = torch.eye(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
    states = [2 * p.log() + 7 - bias for p in (policy, base)]
    found = unlikely_mass(*states, 0.01, weight, bias, 0.5, None, plain_product)
    torch.testing.assert_close(found[0], torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor([0.01, 0.0]))


def test_onednns_product_is_torchs():
    """Also of transposed views, which gradients take."""
    generator = torch.Generator().manual_seed(2)
    x, w = (torch.randn(n, 24, generator=generator) for n in (40, 33))
    torch.testing.assert_close(onednn_product(x, w), x @ w.T)
    torch.testing.assert_close(onednn_product(w.T, x.T[:, :33]), w.T @ x[:33])


def test_logits_of_the_whole_batch_never_exist(model, monkeypatch):
    """The head sees answer positions only: 2 of 40 here."""
    seen = []
    real = head._logits

    def watched(hidden, *rest):
        seen.append(len(hidden))
        return real(hidden, *rest)

    monkeypatch.setattr(head, "_logits", watched)
    score_rows(model, [Row([*range(3, 43)], 38)])
    assert seen == [2]

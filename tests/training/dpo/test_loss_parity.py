"""Every loss against TRL 1.16's own trainers, computing it on the same rows at once:
its value, the figures logged beside it and the gradient it gives to each LoRA weight.

One batch, float32, a policy whose adapter is not zero measured against the base. TRL's
trainers are made once and then told which loss to compute.
"""

import copy

import peft
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from tests.training.dpo.runs import chat
from training.dpo.config import load_config
from training.dpo.prepare import prepare
from training.dpo.process import StopFlag
from training.dpo.status import StatusFile
from training.dpo.step import backward_step

CHATS = [
    chat("How do I boil an egg?", "1. water 2. time", "I do not know."),
    chat("怎样煮鸡蛋?", "先把水烧开,再煮八分钟。", "不知道。"),
    chat("Salt?", "1", "2"),
    chat("Tea?", "I do not know.", "I do not, I do not know, no."),
    chat("Time?", "wait, wait, wait", "no"),
]
STRINGS = [
    {"prompt": "boil the water, ", "chosen": "then salt", "rejected": "then wait"},
    {"prompt": "1. water 2. ", "chosen": "time", "rejected": "salt, then tea"},
    {"prompt": "I do", "chosen": " not know", "rejected": " know"},
]
"""Each prompt's tokens stand by themselves: TRL's older trainers cut elsewhere."""

COMMON = {
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "max_length": 80,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}
SHOWN = [
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected"),
]


@pytest.fixture(scope="module")
def adapter(base_model, tmp_path_factory):
    """A LoRA folder whose A and B are both drawn at random."""
    torch.manual_seed(5)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        init_lora_weights=False,
    )
    folder = tmp_path_factory.mktemp("loss-adapter")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    peft.get_peft_model(model, settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make_trainer(base_model, adapter, tmp_path_factory):
    """A trainer of TRL's around the policy; `reference`: the base as its reference."""

    def make(trainer_class, config_class, rows, *, reference, **options):
        model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        policy = peft.PeftModel.from_pretrained(model, adapter, is_trainable=True)
        more = {}
        if reference:
            more["ref_model"] = AutoModelForCausalLM.from_pretrained(
                base_model, dtype=torch.float32
            )
        return trainer_class(
            model=policy,
            args=config_class(
                output_dir=str(tmp_path_factory.mktemp("trl")), **(COMMON | options)
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(base_model),
            **more,
        )

    return make


@pytest.fixture(scope="module")
def dpo_trainer(make_trainer):
    return make_trainer(DPOTrainer, DPOConfig, CHATS, reference=True)


@pytest.fixture
def make_prepared(make_run, adapter):
    """Ours on the same rows, ready for its first step."""

    def make(rows, name="run", **config):
        folder = make_run(
            name,
            rows,
            lora={},
            parent_adapter=str(adapter),
            max_length=80,
            **({"reference": "base"} | config),
        )
        status = StatusFile(folder)
        return prepare(
            folder, load_config(folder / "config.json"), StopFlag(), status
        ).run

    return make


def gradients(named):
    return {
        name.replace(".default", ""): parameter.grad.clone()
        for name, parameter in named
        if parameter.grad is not None
    }


def trl_step(trainer, rows=None):
    """(loss, metrics, gradients) of one batch of all rows."""
    trainer.model.zero_grad()
    trainer.model.train()
    batch = trainer.data_collator(rows or list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    store = getattr(trainer, "_metrics", None) or trainer._stored_metrics
    shown = {name: values[-1] for name, values in store["train"].items() if values}
    return loss.item(), shown, gradients(trainer.model.named_parameters())


def our_step(run):
    for parameter in run.parameters.values():
        parameter.grad = None
    figures = backward_step(run, list(range(len(run.data.pairs))))
    named = ((n.replace(".default", ""), p) for n, p in run.parameters.items())
    return figures.metrics(), gradients(named)


def assert_alike(ours, theirs, shown=SHOWN, size=100.0):
    """Loss and figures within float32's reach, gradients by norm.

    `size`: of the summed log-probs that rewards are small differences of.
    """
    (metrics, mine), (loss, other, gradient) = ours, theirs
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6 * size)
    for key in shown:
        assert metrics[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6 * size), key
    assert mine and set(mine) == set(gradient)
    for name in mine:
        apart = (mine[name] - gradient[name]).norm()
        assert apart <= 1e-4 * gradient[name].norm() + 1e-9, name


@pytest.mark.parametrize(
    ("loss", "config"),
    [
        ("sigmoid", {}),
        ("hinge", {}),
        ("ipo", {}),
        ("robust", {"label_smoothing": 0.1}),
        ("exo_pair", {"label_smoothing": 0.01}),
        ("nca_pair", {}),
        ("bco_pair", {}),
        ("sppo_hard", {}),
        ("apo_zero", {}),
        ("apo_down", {}),
        ("sigmoid_norm", {"beta": 2.0}),
        ("discopop", {"discopop_tau": 0.2}),
        ("aot", {"label_smoothing": 0.1}),
        ("aot_unpaired", {}),
        ("sft", {}),
        ({"sigmoid": 1.0, "sft": 0.3}, {}),
        ({"aot": 0.5, "ipo": 1.0, "apo_zero": 2.0}, {}),
        ("sigmoid", {"ld_alpha": 0.4}),
        ({"ipo": 1.0, "sft": 0.3}, {"ld_alpha": 0.0}),
    ],
)
@pytest.mark.parametrize("micro_batch", [None, 1])
def test_a_loss_of_pairs_is_trls(loss, config, micro_batch, dpo_trainer, make_prepared):
    """However the step is split: TRL's batch is our step."""
    run = make_prepared(
        CHATS, loss=loss, micro_batch_size=micro_batch, **({"beta": 0.05} | config)
    )
    trainer = copy.copy(dpo_trainer)
    named = loss if isinstance(loss, dict) else {loss: 1.0}
    trainer.loss_types, trainer.loss_weights = list(named), list(named.values())
    trainer.beta = run.config.beta
    trainer.label_smoothing = run.config.label_smoothing
    trainer.ld_alpha = run.config.ld_alpha
    trainer.args = copy.copy(dpo_trainer.args)
    trainer.args.discopop_tau = run.config.discopop_tau
    assert_alike(our_step(run), trl_step(trainer))


def given_ids(dataset):
    """TRL's older trainers' rows as ids for ours."""
    rows = []
    for row in dataset:
        asked = row["chosen_labels"].count(-100)
        prompt = row["chosen_input_ids"][:asked]
        assert row["rejected_input_ids"][:asked] == prompt
        chosen, rejected = (
            row[f"{side}_input_ids"][asked:] for side in ("chosen", "rejected")
        )
        rows.append(
            {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        )
    return rows


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_simpo_is_trls(smoothing, make_trainer, make_prepared, monkeypatch):
    """CPOTrainer with `cpo_alpha` 0, without a reference; rewards and log-probs are
    per token there and here."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    settings = {"beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": smoothing}
    trainer = make_trainer(
        CPOTrainer,
        CPOConfig,
        STRINGS,
        reference=False,
        loss_type="simpo",
        cpo_alpha=0.0,
        **settings,
    )
    run = make_prepared(
        given_ids(trainer.train_dataset), loss="simpo", reference="none", **settings
    )
    assert_alike(our_step(run), trl_step(trainer))


def test_orpo_is_trls_but_for_the_prompts_tokens(
    make_trainer, make_prepared, monkeypatch
):
    """TRL's cross-entropy takes in the prompt, the paper's does not: the same where a
    prompt is one token, which no token precedes. Log-odds are the same anyhow."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer = make_trainer(ORPOTrainer, ORPOConfig, STRINGS, reference=False, beta=0.3)
    rows = list(trainer.train_dataset)
    odds = [*SHOWN, "log_odds_ratio", "log_odds_chosen"]
    config = {"loss": "orpo", "reference": "none", "beta": 0.3}
    ours, theirs = our_step(make_prepared(given_ids(rows), **config)), trl_step(trainer)
    for key in odds:
        assert ours[0][key] == pytest.approx(theirs[1][key], rel=1e-5), key

    cut = [one_token_prompt(row) for row in rows]
    ours = our_step(make_prepared(given_ids(cut), name="cut", **config))
    assert_alike(ours, trl_step(trainer, cut), [*odds, "nll_loss"])


def one_token_prompt(row):
    """An older trainer's row with all of its prompt but the last token gone."""
    gone = row["chosen_labels"].count(-100) - 1
    return {
        key: value[gone:]
        for key, value in row.items()
        if "prompt" not in key and isinstance(value, list)
    }


UNPAIRED = [
    {
        "prompt": row["prompt"],
        "completion": row["chosen" if place % 3 else "rejected"],
        "label": bool(place % 3),
    }
    for place, row in enumerate(CHATS)
]
KTO_SHOWN = [
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"),
    *("logps/rejected", "logits/chosen", "logits/rejected", "entropy", "kl"),
]


@pytest.fixture(scope="module")
def kto_trainer(make_trainer):
    return make_trainer(
        KTOTrainer,
        KTOConfig,
        UNPAIRED,
        reference=True,
        per_device_train_batch_size=len(UNPAIRED),
        train_sampling_strategy="sequential",
        desirable_weight=1.5,
        undesirable_weight=0.5,
    )


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("turned", [False, True])
def test_a_loss_of_single_answers_is_trls(
    loss, micro_batch, turned, kto_trainer, make_prepared
):
    """A step of ours is a batch of TRL's, however it is split. `turned`: the reference
    is the start, and the policy has gone back nearly to the base, which finds all
    answers likelier; else the policy finds them less likely and the KL is cut at 0."""
    run = make_prepared(
        UNPAIRED,
        loss=loss,
        beta=0.05,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        batch_size=len(UNPAIRED),
        micro_batch_size=micro_batch,
        shuffle=False,
        reference="start" if turned else "base",
    )
    trainer = copy.copy(kto_trainer)
    trainer.beta, trainer.loss_type = 0.05, loss
    trainer.calculate_KL = loss == "kto"
    if turned:
        trainer.ref_model = kto_trainer.model
        trainer.model = copy.deepcopy(kto_trainer.model)
        with torch.no_grad():
            for parameters in (
                trainer.model.named_parameters(),
                run.parameters.items(),
            ):
                for name, parameter in parameters:
                    if "lora_B" in name:
                        parameter.mul_(0.1)
    theirs = trl_step(trainer)
    assert_alike(our_step(run), theirs, KTO_SHOWN)
    assert (theirs[1]["kl"] > 0) == (turned and loss == "kto")


@pytest.mark.parametrize("place", range(len(CHATS)))
def test_conservative_dpo_is_trls_optimal_transport_of_a_lone_pair(
    place, dpo_trainer, make_prepared
):
    """TRL ignores `label_smoothing` with sigmoid, but has the same formula in `aot`,
    which has nothing to sort where a batch is one pair."""
    run = make_prepared([CHATS[place]], beta=0.05, label_smoothing=0.2)
    trainer = copy.copy(dpo_trainer)
    trainer.loss_types, trainer.loss_weights = ["aot"], [1.0]
    trainer.beta, trainer.label_smoothing = 0.05, 0.2
    assert_alike(our_step(run), trl_step(trainer, [trainer.train_dataset[place]]))

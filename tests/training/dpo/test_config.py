"""config.json: defaults, and errors that name the key."""

from dataclasses import fields

import pytest

from training.dpo.config import (
    TrainingConfig,
    as_dict,
    load_config,
    parse_config,
)
from training.dpo.elsewhere import LOSSES_ELSEWHERE, SAID_ELSEWHERE
from training.dpo.errors import TrainerError
from training.dpo.loss_facts import LOSS_FACTS


def test_the_base_model_alone_is_enough():
    assert parse_config({"base_model": "m"}) == TrainingConfig("m")


def test_every_key_of_the_contract_is_known():
    keys = [
        "base_model",
        "parent_adapter",
        "reference",
        "tuning",
        "lora",
        "dtype",
        "loss",
        "beta",
        "label_smoothing",
        "ld_alpha",
        "simpo_gamma",
        "discopop_tau",
        "sft_epochs",
        "sft_learning_rate",
        "learning_rate",
        "epochs",
        "batch_size",
        "micro_batch_size",
        "max_length",
        "warmup_ratio",
        "lr_scheduler",
        "weight_decay",
        "max_grad_norm",
        "seed",
        "shuffle",
        "logging_steps",
        "save_steps",
        "resume_from",
    ]
    known = as_dict(TrainingConfig("m"))
    assert set(keys) <= set(known)
    assert set(known["lora"]) == {"r", "alpha", "dropout", "target_modules"}
    # Written out with its defaults, a config reads back as the same.
    assert parse_config(known) == TrainingConfig("m")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"learning_rat": 1},
            'unknown key "learning_rat"; the nearest known one is "learning_rate"',
        ),
        ({"lora": {"rank": 8}}, 'unknown key "lora.rank"'),
        ({"beta": 0}, '"beta" must be a number above 0, not 0'),
        ({"beta": "0.1"}, '"beta" must be a number above 0'),
        ({"beta": True}, '"beta" must be a number'),
        (
            {"label_smoothing": 0.5},
            '"label_smoothing" must be a number of at least 0 and below 0.5',
        ),
        (
            {"batch_size": 1.5},
            '"batch_size" must be a whole number of at least 1 or null',
        ),
        ({"epochs": -1}, '"epochs" must be a number above 0 or null'),
        ({"seed": None}, '"seed" must be a whole number'),
        ({"shuffle": 1}, '"shuffle" must be true or false'),
        ({"dtype": "float16"}, '"dtype" must be one of "auto", "float32", "bfloat16"'),
        ({"reference": "parent"}, '"reference" must be one of'),
        ({"loss": "sigmod"}, 'the nearest is "sigmoid"'),
        ({"loss": "SIGMOID"}, 'the nearest is "sigmoid"'),
        ({"loss": {"sigmoid": "x"}}, '"loss.sigmoid" must be a number'),
        ({"loss": {"sigmoid": -1}}, '"loss.sigmoid" must be a number above 0'),
        (
            {"loss": {"sigmoid": 1, "kto": 1}},
            'mixes losses of pairs and of single answers ("sigmoid", "kto")',
        ),
        (
            {"loss": {"sigmoid": 1, "sft": 1}, "reference": "none"},
            'losses without a reference are "sft", "simpo", "orpo"',
        ),
        ({"loss": "exo_pair"}, '"label_smoothing" must be above 0 for "exo_pair"'),
        (
            {"loss": "hinge", "label_smoothing": 0.1},
            '"label_smoothing" changes nothing with "hinge"; it is for "sigmoid",'
            ' "robust", "exo_pair", "aot", "aot_unpaired", "simpo"',
        ),
        ({"loss": "simpo", "ld_alpha": 0.5}, '"ld_alpha" changes nothing with "simpo"'),
        ({"simpo_gamma": 1.0}, '"simpo_gamma" changes nothing with "sigmoid"'),
        ({"undesirable_weight": 2}, 'it is for "kto", "apo_zero_unpaired"'),
        ({"lora": {"target_modules": ["lm_head"]}}, "lm_head"),
        ({"lora": [8]}, '"lora" must be an object, not [8].'),
        ({"base_model": ""}, '"base_model" must be a text'),
        ({"epochs": 1e300}, '"epochs" must be between 1e-38 and 1e+06, not 1e+300'),
        ({"sft_epochs": 1e9}, '"sft_epochs" must be 0 or between 1e-38 and 1e+06'),
        ({"epochs": 1e-320}, '"epochs" must be between 1e-38 and 1e+06, not 1e-320'),
        ({"beta": 1e-320}, '"beta" must be between 1e-38 and 1e+38, not 1e-320'),
        (
            {"weight_decay": 1e300},
            '"weight_decay" must be 0 or between 1e-38 and 1e+38',
        ),
        ({"warmup_ratio": 1e-320}, '"warmup_ratio" must be 0 or between 1e-38 and 1,'),
        ({"lora": {"r": 10**24}}, '"lora.r" must be between 1 and 16384, not 1000'),
        ({"max_length": 10**39}, '"max_length" must be between 2 and 1e+38'),
        ({"loss": {"ipo": 1e39}}, '"loss.ipo" must be between 1e-38 and 1e+38'),
        (
            {"loss": "kto", "desirable_weight": 1e300},
            '"desirable_weight" must be 0 or between 1e-38 and 1e+38, not 1e+300',
        ),
        ({"max_length": 1}, '"max_length" must be a whole number of at least 2'),
    ],
)
def test_a_bad_value_is_named(values, said):
    with pytest.raises(TrainerError) as raised:
        parse_config({"base_model": "m"} | values)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        # By spelling alone: ipo, orpo, sft_epochs, ld_alpha, beta, lora.
        ({"loss": "dpo"}, '"loss" knows no "dpo"; here it is "sigmoid".'),
        ({"loss": {"rpo": 1}}, 'no "rpo"; here it is {"sigmoid": 1.0, "sft": 0.2}.'),
        ({"num_train_epochs": 3}, 'key "num_train_epochs"; here it is "epochs".'),
        ({"rpo_alpha": 1}, 'here it is "loss": {"sigmoid": 1.0, "sft": 0.2}.'),
        ({"bf16": True}, 'unknown key "bf16"; here it is "dtype".'),
        ({"lr": 1e-5}, 'unknown key "lr"; here it is "learning_rate".'),
        ({"lora_alpha": 16}, 'unknown key "lora_alpha"; here it is "lora.alpha".'),
    ],
)
def test_names_of_trl_and_of_papers_lead_to_ours(values, said):
    """The nearest spelling led from one loss to another, and from RPO's α to LD-DPO's."""
    with pytest.raises(TrainerError) as raised:
        parse_config({"base_model": "m"} | values)
    assert said in str(raised.value)


def test_no_key_that_is_known_is_said_to_be_called_otherwise():
    assert not set(SAID_ELSEWHERE) & {field.name for field in fields(TrainingConfig)}
    assert not set(LOSSES_ELSEWHERE) & set(LOSS_FACTS)


@pytest.mark.parametrize(
    "values",
    [
        {"loss": "simpo", "reference": "none", "simpo_gamma": 1.0},
        {"loss": {"orpo": 1.0, "sft": 0.5}, "reference": "none"},
        {"loss": "sft", "reference": "none"},
        {"loss": "exo_pair", "label_smoothing": 0.001},
        {"loss": {"hinge": 1.0, "sigmoid": 1.0}, "label_smoothing": 0.1},
        {"loss": {"sigmoid": 1.0, "sft": 0.2}, "ld_alpha": 0.5},
    ],
)
def test_what_a_loss_reads_may_be_set_with_it(values):
    parse_config({"base_model": "m"} | values)


def test_every_loss_but_plain_training_has_a_usual_range_of_beta():
    for name, facts in LOSS_FACTS.items():
        low, high = facts.beta or (0, 1)
        assert 0 <= low < high
        assert bool(facts.beta_source) == (name != "sft")


@pytest.mark.parametrize("seed", [0, 1 << 70])
def test_a_seed_may_be_of_any_size(seed):
    assert parse_config({"base_model": "m", "seed": seed}).seed == seed


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"base_model": "m", "beta": 0.1, "beta": 0.5}', "beta"),
        ('{"base_model": "m", "lora": {"r": 8, "r": 8}}', "r"),
    ],
)
def test_a_key_given_twice_is_named(text, key, tmp_path):
    """Of two values one would be lost without a word."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrainerError) as raised:
        load_config(tmp_path / "config.json")
    assert str(raised.value) == f'config.json gives "{key}" twice; leave one.'


def test_a_missing_base_model_is_named():
    with pytest.raises(TrainerError, match='lacks "base_model"'):
        parse_config({})

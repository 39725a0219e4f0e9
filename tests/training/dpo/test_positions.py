"""Rows longer than the model's positions are refused or said before work starts."""

import json
import shutil

import pytest
import transformers
from transformers import AutoModelForCausalLM

from tests.training.dpo.runs import chat, read_json, train_here, write_run
from training.dpo.errors import TrainerError
from training.dpo.positions import has_table, positions_of

LONG = chat("Tell me about eggs and water and time. " * 60, "1. yes", "no")
SHORT = chat("Salt?", "yes", "no")
ONCE = {"batch_size": 1, "epochs": 1}


def built(kind, **settings):
    small = {"vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"hidden_size": 16, "intermediate_size": 32, "ffn_dim": 32}
    config = transformers.AutoConfig.for_model(kind, **small | settings)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("kind", "shape", "positions", "table"),
    [
        ("gpt2", {"n_positions": 48}, 48, True),
        ("opt", {"max_position_embeddings": 48}, 48, True),
        ("gptj", {"n_positions": 48, "rotary_dim": 4}, 48, True),
        ("gpt_neox", {"max_position_embeddings": 48}, 48, False),
        ("llama", {"max_position_embeddings": 48}, 48, False),
        # not counted into max_position_embeddings, and counted: 4 · 48, 8 · 16
        ("llama", {"rope": {"rope_type": "linear", "factor": 4.0}}, 192, False),
        (
            "llama",
            {
                "rope": {"rope_type": "yarn", "factor": 8.0},
                "original": 16,
                "max_position_embeddings": 128,
            },
            128,
            False,
        ),
        ("bloom", {}, None, False),
    ],
)
def test_positions_are_read_off_the_model(kind, shape, positions, table):
    settings = {"max_position_embeddings": 48} | shape
    if "rope" in settings:
        rope = settings.pop("rope") | {"rope_theta": 10000.0}
        if "original" in settings:
            rope["original_max_position_embeddings"] = settings.pop("original")
        settings["rope_parameters"] = rope
    if kind in ("gpt2", "gptj", "bloom"):
        del settings["max_position_embeddings"]
    model = built(kind, **settings)
    assert (positions_of(model), has_table(model)) == (positions, table)


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_a_row_beyond_learnt_positions_is_refused_by_line(family, tmp_path, loss):
    rows = [SHORT, SHORT | {"id": "b"}, LONG]
    config = ONCE | {"max_length": 4096, "loss": loss, "batch_size": 2}
    run = write_run(tmp_path / "run", family("gpt2"), rows, **config)
    with pytest.raises(TrainerError) as raised:
        train_here(run)
    side = "completion" if loss == "kto" else "chosen"
    said = str(raised.value)
    assert said.startswith(f'pairs.jsonl line 3: the prompt and "{side}" have ')
    assert 'positions for 512 only: set "max_length": 512 in' in said
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_a_row_beyond_which_positions_depend_on_others_is_refused(
    family, tmp_path, loss
):
    """transformers gives a row after a longer one the longer one's frequencies."""
    base = shutil.copytree(family("llama"), tmp_path / "base")
    config = read_json(base / "config.json")
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2}
    (base / "config.json").write_text(json.dumps(config))
    rows = [SHORT, SHORT | {"id": "b"}, LONG]
    settings = ONCE | {"max_length": 4096, "loss": loss, "batch_size": 2}
    run = write_run(tmp_path / "run", base, rows, **settings)
    with pytest.raises(TrainerError) as raised:
        train_here(run)
    said = str(raised.value)
    assert said.startswith("pairs.jsonl line 3: the prompt and ")
    assert 'beyond 512 the model\'s positions ("rope_type": "dynamic") depend' in said
    short = write_run(tmp_path / "short", base, rows[:2], **settings)
    train_here(short)
    assert read_json(short / "summary.json")["forward"]["kind"] == "fused"
    settings["max_length"] = 512
    train_here(write_run(tmp_path / "cut", base, rows, **settings))


def test_a_stray_stays_within_learnt_positions(family, tmp_path):
    """Of 512: a prompt of some 480 beside another row's answer of some 80."""
    prompt = "salt " * 120
    rows = [
        {"prompt": prompt, "completion": "1", "label": True},
        {"prompt": "Salt?", "completion": "salt " * 60, "label": False},
    ]
    config = {"loss": "kto", "batch_size": 2, "epochs": 1, "max_length": 1024}
    run = write_run(tmp_path / "run", family("gpt2"), rows, **config)
    train_here(run)
    assert read_json(run / "preflight.json")["tokens"]["longest"] == 512


def test_rows_beyond_rotary_positions_are_warned_of(family, tmp_path):
    config = ONCE | {"max_length": 4096}
    run = write_run(tmp_path / "run", family("llama"), [SHORT, LONG], **config)
    train_here(run)
    (said,) = [
        warning["text"]
        for warning in read_json(run / "preflight.json")["warnings"]
        if warning["code"] == "beyond_positions"
    ]
    assert said.startswith("1 rows have more than the 512 tokens that the model was")
    assert "line 2 of pairs.jsonl" in said

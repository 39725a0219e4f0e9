"""Bases and parent adapters as people have them: torn, in part, of unusual shape."""

import json
import shutil
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    FalconH1Config,
    Llama4TextConfig,
    MambaConfig,
    PhimoeConfig,
    modeling_utils,
)

from tests.training.dpo.runs import read_json, train_here
from training.dpo.adapter import attach_adapter
from training.dpo.base import load_base, load_tokenizer
from training.dpo.batches import Layout, Row
from training.dpo.check import make_engine
from training.dpo.config import Savings, parse_config
from training.dpo.errors import TrainerError

ADAPTER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CPU = torch.device("cpu")


@pytest.fixture
def parent(adapter_of, tmp_path):
    """A copy of a parent adapter for all linear layers of the Llama."""
    return shutil.copytree(adapter_of("llama"), tmp_path / "parent")


def refused(make_run, **config):
    """The sentence that a run ends with."""
    with pytest.raises(TrainerError) as caught:
        train_here(make_run(**({"lora": {}} | config)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_base_with_a_torn_file_is_named(make_run, base_model, tmp_path, name):
    """As a broken download leaves it: half of the weights, a tokenizer of `{}`."""
    torn = shutil.copytree(base_model, tmp_path / "torn")
    path = torn / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if name != "tokenizer.json" else b"{}")
    told = refused(make_run, base_model=str(torn))
    assert f'of base_model "{torn}" could not be loaded' in told


@pytest.mark.parametrize(
    ("stored", "dtype", "way"),
    [
        ("float32", "float32", "mmap"),
        ("float32", "bfloat16", "pread"),
        ("bfloat16", "float32", "pread"),
        ("float32", "auto", "mmap"),
    ],
)
def test_files_are_mapped_only_where_weights_stay_as_they_are(
    base_model, tmp_path, monkeypatch, stored, dtype, way
):
    """What is converted would be held twice until all is: its pages and the outcome."""
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=stored)
    model.save_pretrained(tmp_path)
    opened, ways = modeling_utils.safe_open, []

    def told(*given, **named):
        ways.extend([named["backend"]] if "backend" in named else [])
        return opened(*given, **named)

    monkeypatch.setattr(modeling_utils, "safe_open", told)
    base = load_base(str(tmp_path), dtype, CPU)
    assert ways == [way]
    assert modeling_utils.safe_open is told
    for name, weight in model.state_dict().items():
        assert torch.equal(base.state_dict()[name], weight.to(base.dtype))


def test_a_base_of_another_width_than_its_config_is_refused(
    make_run, base_model, tmp_path
):
    """transformers' own words point at a report that status.json has not."""
    other = shutil.copytree(base_model, tmp_path / "other")
    config = read_json(other / "config.json")
    config["hidden_size"] *= 2
    (other / "config.json").write_text(json.dumps(config))
    told = refused(make_run, base_model=str(other))
    assert f'"{other}" have other shapes than its config.json says' in told


def test_a_base_that_lacks_weights_is_refused(make_run, base_model, tmp_path):
    """transformers makes random ones in their place, and only warns."""
    other = shutil.copytree(base_model, tmp_path / "other")
    config = read_json(other / "config.json")
    config["num_hidden_layers"] += 1
    (other / "config.json").write_text(json.dumps(config))
    told = refused(make_run, base_model=str(other))
    # Seven products and two norms of a layer of Llama's.
    assert f'"{other}" lack 9 of those that its config.json asks for' in told
    assert f"such as model.layers.{config['num_hidden_layers'] - 1}." in told


def test_other_errors_of_loading_are_not_taken_for_it(monkeypatch):
    def full(*of_call, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_base("x", "float32", CPU)


def test_no_memory_for_a_parent_adapter_is_no_misfit(make_run, parent, monkeypatch):
    def full(*of_call, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(peft.PeftModel, "from_pretrained", full)
    assert "Out of memory" in refused(make_run, parent_adapter=str(parent))


@pytest.mark.parametrize(
    "name", ["/no/model", "./model", "../model", "~/model", "a/b/c"]
)
def test_a_base_folder_that_is_not_there_is_named(name):
    """The hub's rules for names were told instead."""
    for load in (load_tokenizer, partial(load_base, dtype="auto", device=CPU)):
        with pytest.raises(TrainerError) as caught:
            load(name)
        wanted = f'config.json: "base_model": there is no folder "{name}".'
        assert str(caught.value) == wanted


@pytest.mark.parametrize(
    ("name", "content"), [(WEIGHTS, b"\x08"), (ADAPTER, b"{"), (ADAPTER, b"[]")]
)
def test_a_parent_with_a_torn_file_is_named(make_run, parent, name, content):
    (parent / name).write_bytes(content)
    assert f'"parent_adapter" {parent}' in refused(make_run, parent_adapter=str(parent))


def test_a_parent_that_lacks_weights_is_refused(make_run, parent):
    """PEFT would go on with fresh ones in their place, and only warn."""
    weights = load_file(parent / WEIGHTS)
    some = {name: value for name, value in weights.items() if "layers.0" in name}
    assert 0 < len(some) < len(weights)
    save_file(some, parent / WEIGHTS, metadata={"format": "pt"})
    assert "lacks weights of layers" in refused(make_run, parent_adapter=str(parent))


def test_a_parent_of_another_base_is_told_by_its_shapes(make_run, parent):
    """torch's first line, which was told alone, ends at a colon."""
    weights = load_file(parent / WEIGHTS)
    name = next(name for name in weights if name.endswith("q_proj.lora_A.weight"))
    weights[name] = weights[name].repeat(1, 2).contiguous()
    save_file(weights, parent / WEIGHTS, metadata={"format": "pt"})
    told = refused(make_run, parent_adapter=str(parent))
    assert "does not fit the base model: size mismatch for" in told
    assert "q_proj.lora_A" in told
    assert "[4, 64]" in told and "[4, 32]" in told


def test_a_base_whose_weights_are_no_numbers_is_said(make_run, base_model, tmp_path):
    """The head was blamed, with log-probs that "differ by nan"."""
    other = shutil.copytree(base_model, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "up_proj" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    told = refused(make_run, base_model=str(other))
    assert "are no finite numbers: its weights are damaged" in told


def test_target_modules_beside_a_parent_must_be_its_own(make_run, parent):
    """They were passed over without a word. The parent's: all linear layers."""
    config = {"parent_adapter": str(parent), "epochs": 1}
    for number, names in enumerate(("all-linear", None)):
        run = make_run(f"{number}", **config, lora={"target_modules": names})
        train_here(run)
        assert read_json(run / "status.json")["state"] == "done"
    told = refused(make_run, **config, lora={"target_modules": ["q_proj"]})
    assert '"lora.target_modules" means other modules than the parent' in told


def test_an_adapter_on_the_head_is_refused_however_it_is_named(
    make_run, base_model, tmp_path
):
    """A pattern got past a look at names: the head's share was then neither in the
    figures nor trained."""
    model = AutoModelForCausalLM.from_pretrained(base_model)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=".*(q_proj|lm_head)$")
    peft.get_peft_model(model, lora).save_pretrained(tmp_path / "parent")
    told = refused(make_run, parent_adapter=str(tmp_path / "parent"))
    assert "would change the model's head" in told


def test_a_module_that_holds_others_is_named_in_a_sentence(make_run):
    told = refused(make_run, lora={"target_modules": ["q_proj", "self_attn"]})
    assert 'names "self_attn", which holds other modules' in told


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (
            MambaConfig(
                hidden_size=16, state_size=4, num_hidden_layers=1, vocab_size=9
            ),
            3,
        ),
        (
            FalconH1Config(
                **{"hidden_size": 16, "intermediate_size": 16, "vocab_size": 9},
                **{"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16},
                **{"mamba_d_ssm": 16, "mamba_n_heads": 1, "mamba_d_head": 16},
                **{"mamba_d_state": 4, "num_hidden_layers": 1},
            ),
            8,
        ),
    ],
    ids=["mamba", "falcon_h1"],
)
def test_a_fresh_adapter_suits_state_space_layers(config, layers):
    """All but out_proj, which PEFT refuses: in_proj, x_proj and dt_proj of Mamba;
    in_proj and the seven of attention and feed-forward layer of Falcon-H1."""
    model = AutoModelForCausalLM.from_config(config)
    wrapped = attach_adapter(model, parse_config({"base_model": "x"}))
    trained = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * layers
    assert not any("out_proj" in name for name in trained)


ROWS = [Row([3, 1, 4, 1, 5, 9, 2, 6], 4), Row([3, 1, 4, 1, 7, 8], 4)]
TINY = {
    **{"vocab_size": 11, "hidden_size": 16, "intermediate_size": 16},
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0},
    **{"bos_token_id": None, "eos_token_id": 1},
}
EXPERTS = {
    "num_key_value_heads": 1,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (PhimoeConfig(**TINY | EXPERTS), ATTENTION),
        (
            Llama4TextConfig(
                **TINY | EXPERTS, head_dim=8, intermediate_size_mlp=16, moe_layers=[0]
            ),
            ATTENTION | {"gate_proj", "up_proj", "down_proj"},
        ),
        (
            FalconConfig(**TINY, alibi=False),
            {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        ),
    ],
    ids=["phimoe", "llama4_text", "falcon"],
)
def test_a_fresh_adapter_leaves_routers_out(config, names, capsys):
    """They are linear layers that give a tuple, on which PEFT failed; Llama 4's model
    without its head is not where transformers says it is."""
    model = AutoModelForCausalLM.from_config(config)
    wrapped = attach_adapter(model, parse_config({"base_model": "x"}))
    assert wrapped.peft_config["default"].target_modules == names
    # Nothing is left out unsaid.
    has_router = not isinstance(config, FalconConfig)
    assert ("leaves out router:" in capsys.readouterr().err) is has_router
    engine = make_engine(wrapped, Layout(512, None, 0), Savings(), ROWS, 64)
    scores = engine.score(ROWS).token_logps
    logits = model(torch.tensor([ROWS[0].ids])).logits[0, 3:-1]
    wanted = logits.log_softmax(-1).gather(1, torch.tensor(ROWS[0].ids[4:])[:, None])
    torch.testing.assert_close(scores[:4], wanted[:, 0], rtol=1e-4, atol=1e-4)


def test_a_router_that_is_named_is_refused():
    model = AutoModelForCausalLM.from_config(PhimoeConfig(**TINY | EXPERTS))
    lora = {"target_modules": ["q_proj", "router"]}
    config = parse_config({"base_model": "x", "lora": lora})
    with pytest.raises(TrainerError, match='names "router", whose layers give more'):
        attach_adapter(model, config)

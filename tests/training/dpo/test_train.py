"""Training really trains, and writes what the run folder's contract promises."""

import json
import math

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.dpo.runs import PAIRS, chat, read_json, read_rows, train_here
from training.dpo.canary import base_canary
from training.dpo.canary import main as canary_command
from training.dpo.errors import TrainerError

METRICS = {
    *("step", "phase", "epoch", "loss", "rewards/chosen", "rewards/rejected"),
    *("rewards/margins", "rewards/accuracies", "rewards/accuracies_ties_half"),
    *("logps/chosen", "logps/rejected"),
    *("logits/chosen", "logits/rejected", "entropy", "mean_token_accuracy"),
    *("num_tokens", "drift/chosen", "drift/rejected", "grad_norm", "learning_rate"),
    "pairs_per_second",
}


@pytest.fixture(scope="module")
def base_bytes(base_model):
    return (base_model / "model.safetensors").read_bytes()


def test_margins_grow_and_every_output_is_there(make_run, base_model, base_bytes):
    run = make_run(
        held_out=PAIRS[:2], batch_size=2, epochs=6, learning_rate=1e-3, eval_steps=18
    )
    train_here(run)

    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 19))  # 6 epochs of 3
    assert rows[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert all(set(row) == METRICS for row in rows[1:-1])
    assert rows[-1]["rewards/margins"] > 0.3
    assert rows[-1]["eval_rewards/accuracies"] == 1.0

    scored = read_rows(run / "pairs_scored.jsonl")
    assert [row["id"] for row in scored] == [pair["id"] for pair in PAIRS]
    assert all(row["margin"] > 0.1 for row in scored)

    status = read_json(run / "status.json")
    assert (status["state"], status["step"], status["total_steps"]) == ("done", 18, 18)
    summary = read_json(run / "summary.json")
    assert summary["steps"] == 18 and summary["rows"]["pairs.jsonl"]["used"] == 6
    assert summary["tokens"] == rows[-1]["num_tokens"]
    assert summary["held_out"]["end"]["loss"] == rows[-1]["eval_loss"]
    assert summary["chosen"]["learning_rate"]["why"] == "given"
    assert (base_model / "model.safetensors").read_bytes() == base_bytes


def test_all_adapter_weights_move_and_the_file_loads_into_peft(make_run, base_model):
    """B starts at 0 and A as drawn from the seed: a run of the smallest rate shows it."""
    still = make_run(
        "still", epochs=1, batch_size=6, learning_rate=1e-30, warmup_ratio=0
    )
    train_here(still)
    run = make_run(epochs=3, batch_size=3, learning_rate=1e-3)
    train_here(run)
    before = load_file(still / "adapter" / "adapter_model.safetensors")
    after = load_file(run / "adapter" / "adapter_model.safetensors")
    assert len(after) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, before[name]), name
    settings = read_json(run / "adapter" / "adapter_config.json")
    assert settings["base_model_name_or_path"] == str(base_model)
    assert settings["r"] == 4 and settings["lora_alpha"] == 8
    assert "q_proj" in settings["target_modules"] and "lm_head" not in str(settings)

    base = AutoModelForCausalLM.from_pretrained(base_model)
    policy = peft.PeftModel.from_pretrained(base, str(run / "adapter"))
    for prompt in read_json(run / "canary.json")["prompts"]:
        ids = torch.tensor([prompt["token_ids"]])
        with torch.no_grad():
            logps = policy(ids).logits[0, :-1].log_softmax(-1)
        wanted = logps.gather(1, ids[0, 1:, None])[:, 0]
        assert prompt["logprobs"] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_the_canary_tells_the_policy_from_the_base(make_run, base_model):
    run = make_run(epochs=6, batch_size=3, learning_rate=1e-3)
    train_here(run)
    canary = read_json(run / "canary.json")
    assert canary["dtype"] == "float32" and canary["tolerance"] < 0.01
    model = AutoModelForCausalLM.from_pretrained(base_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    alone = base_canary(model, tokenizer)
    assert canary_command([str(base_model), str(run / "base.json")]) == 0
    assert read_json(run / "base.json") == alone
    assert len(canary["prompts"]) == 3
    assert "怎样" in tokenizer.decode(canary["prompts"][1]["token_ids"])
    for prompt, base in zip(canary["prompts"], alone["prompts"], strict=True):
        assert prompt["token_ids"] == base["token_ids"]
        assert len(prompt["logprobs"]) == len(prompt["token_ids"]) - 1
        assert prompt["base_logprobs"] == pytest.approx(base["logprobs"], abs=1e-5)
        apart = [
            abs(p - b)
            for p, b in zip(prompt["logprobs"], base["logprobs"], strict=True)
        ]
        assert sum(apart) / len(apart) > canary["tolerance"]


@pytest.fixture
def parent(make_run):
    run = make_run("parent", epochs=4, batch_size=3, learning_rate=2e-3)
    train_here(run)
    return run / "adapter"


def test_a_parent_adapter_goes_on_from_where_it_was(make_run, parent):
    """With reference "start" the first step has margin 0 though the policy has already
    drifted from the base; with "base" the same step's margin is what the parent won."""
    config = {"parent_adapter": str(parent), "lora": {}, "batch_size": 6, "epochs": 1}
    start = make_run("start", **config, reference="start")
    base = make_run("base", **config, reference="base")
    train_here(start)
    train_here(base)
    first, second = (read_rows(r / "metrics.jsonl")[0] for r in (start, base))
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert first["drift/chosen"] > 0.05
    assert first["drift/chosen"] == pytest.approx(second["drift/chosen"])
    assert second["rewards/margins"] > 0.1
    assert read_json(start / "adapter" / "adapter_config.json")["r"] == 4


def test_a_parent_of_another_rank_is_refused(make_run, parent):
    with pytest.raises(TrainerError, match='"lora.r" is 8, but the parent adapter'):
        train_here(make_run(parent_adapter=str(parent), lora={"r": 8}))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("target_modules", ["q_proj", "lm_head"], "lm_head"),
        ("use_dora", True, "DoRA"),
        ("lora_bias", True, "biases"),
        ("layer_replication", [[0, 2], [1, 2]], "repeated layers"),
        ("trainable_token_indices", [5], "embeddings"),
        # PEFT takes these off the base's weights; the server's base is whole
        ("init_lora_weights", "pissa_niter_4", "changes the base's weights"),
        ("init_lora_weights", "olora", "changes the base's weights"),
    ],
)
def test_a_parent_that_would_be_served_wrongly_is_refused(
    make_run, parent, key, value, said
):
    path = parent / "adapter_config.json"
    path.write_text(json.dumps(read_json(path) | {key: value}))
    with pytest.raises(TrainerError, match=said):
        train_here(make_run(parent_adapter=str(parent), lora={}))


def test_reference_log_probs_are_taken_once(make_run, monkeypatch):
    """A second run over the same pairs and weights, whatever its beta, takes none."""
    first = make_run("first", epochs=1)
    train_here(first)
    second = make_run("second", epochs=1, beta=0.3)
    (first / "reference").rename(second / "reference")
    monkeypatch.setattr("training.dpo.reference.score_set", None)
    train_here(second)
    assert read_json(second / "status.json")["state"] == "done"


def test_a_weight_counts_a_pair_that_many_times(make_run):
    """Step loss Σ w·l / Σ w: a pair of weight 3 beside one of weight 1 gives the same
    gradient, so the same adapter up to rounding, as itself three times beside the
    other one once."""
    light, heavy = PAIRS[0], PAIRS[2]
    plain = {"epochs": 3, "learning_rate": 1e-3, "shuffle": False, "weight_decay": 0.0}
    weighted = make_run(
        "weighted", [light, heavy | {"weight": 3.0}], batch_size=2, **plain
    )
    three = [heavy | {"id": copy} for copy in range(3)]
    repeated = make_run("repeated", [light, *three], batch_size=4, **plain)
    train_here(weighted)
    train_here(repeated)
    for one, other in zip(
        read_rows(weighted / "metrics.jsonl"),
        read_rows(repeated / "metrics.jsonl"),
        strict=True,
    ):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_forward_passes_do_not_change_a_step(make_run):
    whole = make_run("whole", batch_size=6, epochs=3)
    split = make_run("split", batch_size=6, epochs=3, micro_batch_size=1)
    train_here(whole)
    train_here(split)
    for one, other in zip(
        read_rows(whole / "metrics.jsonl"),
        read_rows(split / "metrics.jsonl"),
        strict=True,
    ):
        assert one["logps/chosen"] == pytest.approx(other["logps/chosen"], rel=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_held_out_pairs_are_evaluated_when_asked_and_steps_logged_when_asked(make_run):
    """18 steps, every 5th logged, evaluation every 8: 5, 8, 10, 15, 16 and the last."""
    run = make_run(
        held_out=PAIRS[:1], batch_size=2, epochs=6, logging_steps=5, eval_steps=8
    )
    train_here(run)
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 5, 8, 10, 15, 16, 18]
    assert [row["step"] for row in rows if "eval_loss" in row] == [1, 8, 16, 18]


def test_a_seed_of_any_size_trains(make_run):
    """2³⁵ overflowed where it is multiplied, 2⁷⁰ wherever it is used."""
    runs = [
        make_run(f"{seed}", epochs=1, batch_size=3, seed=2**seed) for seed in (35, 70)
    ]
    for run in runs:
        train_here(run)
        assert read_json(run / "status.json")["state"] == "done"


def test_a_module_that_the_model_has_not_is_named(make_run):
    """Beside one that it has: PEFT would train that one alone."""
    lora = {"r": 4, "target_modules": ["q_proj", "v_porj"]}
    with pytest.raises(TrainerError, match='"v_porj".*the nearest is "v_proj"'):
        train_here(make_run(lora=lora))
    names = ["layers.1.self_attn.q_proj", "v_proj"]
    run = make_run("whole", epochs=1, lora={"r": 4, "target_modules": names})
    train_here(run)
    assert read_json(run / "status.json")["state"] == "done"


def test_dropout_is_used_if_asked_for(make_run):
    """The first two steps have B = 0, where it changes nothing; then it does."""
    config = {"batch_size": 6, "epochs": 4, "warmup_ratio": 0}
    plain = make_run("plain", **config)
    dropped = make_run("dropped", **config, lora={"r": 4, "dropout": 0.5})
    train_here(plain)
    train_here(dropped)
    one, other = (read_rows(run / "metrics.jsonl") for run in (plain, dropped))
    assert one[0]["loss"] == other[0]["loss"]
    assert one[-1]["loss"] != other[-1]["loss"]


def test_one_token_answers_train(make_run):
    pairs = [
        {"prompt_ids": [5, 6, 7], "chosen_ids": [9], "rejected_ids": [10], "id": "x"},
        {"prompt_ids": [5, 6], "chosen_ids": [11], "rejected_ids": [12], "id": "y"},
    ]
    run = make_run(pairs=pairs, epochs=10, batch_size=2, learning_rate=5e-3)
    train_here(run)
    assert read_rows(run / "metrics.jsonl")[-1]["rewards/margins"] > 0.05


def test_a_loss_that_is_no_number_stops_the_run(make_run):
    run = make_run(learning_rate=1e25, epochs=5, batch_size=6, warmup_ratio=0)
    with pytest.raises(
        TrainerError, match="is not a finite number.*Lower learning_rate"
    ):
        train_here(run)
    status = read_json(run / "status.json")
    assert status["state"] == "failed" and "not a finite number" in status["reason"]
    assert not (run / "adapter").exists()


def test_dropped_rows_are_said_and_none_left_is_an_error(make_run, capsys):
    long = chat("x " * 600, "a", "b")
    some = make_run("some", [PAIRS[0], long], epochs=1, max_length=200)
    train_here(some)
    rows = read_json(some / "summary.json")["rows"]["pairs.jsonl"]
    assert rows["dropped"]["the prompt alone fills max_length"]["lines"] == [2]
    assert "1 of 2 rows: the prompt alone fills max_length" in capsys.readouterr().err
    none = make_run("none", [long], max_length=200)
    with pytest.raises(TrainerError, match="no pair to train on .1 rows, dropped 1"):
        train_here(none)


def test_small_data_gets_enough_updates(make_run):
    """6 pairs: one a step, 17 epochs, 102 updates; a starter-size model's rate."""
    run = make_run()
    train_here(run)
    chosen = read_json(run / "summary.json")["chosen"]
    assert {name: item["value"] for name, item in chosen.items()} == {
        "learning_rate": 5e-4,
        "batch_size": 1,
        "epochs": 17.0,
    }


def test_the_same_run_twice_gives_the_same_files(make_run):
    once, twice = make_run("once", epochs=2), make_run("twice", epochs=2)
    train_here(once)
    train_here(twice)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (once / "adapter" / name).read_bytes() == (
            twice / "adapter" / name
        ).read_bytes()
    assert json.loads((once / "canary.json").read_text()) == read_json(
        twice / "canary.json"
    )


def test_a_base_in_bfloat16_keeps_its_adapter_in_float32(make_run):
    run = make_run(dtype="bfloat16", epochs=2, batch_size=3, learning_rate=1e-3)
    train_here(run)
    saved = load_file(run / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert read_json(run / "summary.json")["dtype"] == "bfloat16"
    assert read_json(run / "canary.json")["dtype"] == "bfloat16"
    assert read_rows(run / "metrics.jsonl")[-1]["rewards/margins"] > 0

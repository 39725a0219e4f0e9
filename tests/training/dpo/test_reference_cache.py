"""Log-probs under fixed weights are computed once, found by content, never wrong."""

import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from tests.training.dpo.families import build_adapter
from tests.training.dpo.runs import (
    PAIRS,
    chat,
    read_json,
    read_rows,
    train_here,
)
from tests.training.dpo.test_resume import StopAfter, assert_same_run
from training.dpo import logp_cache
from training.dpo.base import load_base
from training.dpo.batches import Layout
from training.dpo.errors import Stopped
from training.dpo.forward import Engine
from training.dpo.logp_cache import LogpCache, answer_key
from training.dpo.reference import _sums, context
from training.dpo.run import run_folder
from training.dpo.weight_hash import hash_model, remembered_hash

SHORT = {"epochs": 1, "batch_size": 3}


@pytest.fixture
def counted(make_run, tmp_path):
    """`counted(name, **config)` trains over a shared cache: (computed, cached)."""

    def train(name, pairs=PAIRS, **config):
        cache = str(tmp_path / "cache")
        run = make_run(name, pairs, **{**SHORT, "reference_cache": cache, **config})
        train_here(run)
        told = read_json(run / "summary.json")["reference"]
        return told["computed"], told["cached"]

    return train


def test_a_superset_of_the_pairs_computes_only_its_new_answers(counted):
    """Four pairs are eight answers; of a fifth pair one answer is known already."""
    assert counted("first", PAIRS[:4]) == (8, 0)
    known = chat("Salt?", "1", "No. I do not know.")  # PAIRS[3] holds its chosen one
    assert counted("second", [*PAIRS[:4], known, PAIRS[4]]) == (3, 8)
    assert counted("third", [*PAIRS[:4], known, PAIRS[4]]) == (0, 11)


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 1e-3},
        {"beta": 0.4, "label_smoothing": 0.1},
        {"seed": 7},
        {"epochs": 2, "batch_size": 1},
        {"lora": {"r": 2}},
        {"micro_batch_size": 1},
        {"max_length": 400},
        {"loss": {"ipo": 1.0, "sft": 0.2}},
    ],
)
def test_what_does_not_touch_the_reference_hits(counted, changed):
    assert counted("first") == (12, 0)
    assert counted("second", **changed) == (0, 12)


@pytest.mark.parametrize(
    "losses", [("sigmoid", "apo_zero_unpaired"), ("apo_zero_unpaired", "sigmoid")]
)
def test_a_pairs_two_answers_taken_apart_are_not_the_pair(losses, make_run):
    """A run given up before its first checkpoint, and begun anew in its folder with a loss
    of the other kind: from one side it ended in an IndexError, from the other it trained
    against wrong log-probs without a word."""
    run = make_run("run", held_out=PAIRS[:2], **SHORT, loss=losses[0])
    train_here(run)
    shutil.rmtree(run / "checkpoints")
    for folder in (run, make_run("fresh", held_out=PAIRS[:2], **SHORT)):
        config = read_json(folder / "config.json") | {"loss": losses[1]}
        (folder / "config.json").write_text(json.dumps(config))
        train_here(folder)
    assert_same_run(run, folder)


def test_another_way_to_sum_tokens_hits(counted, tmp_path):
    """The reference is then asked for beside the base: the same 12 answers twice. Summed
    as the policy's, or a fresh adapter would not begin at a margin of 0, nor at a drift
    of 0 from the base, whose tokens all count."""
    assert counted("first") == (12, 0)
    assert counted("second", ld_alpha=0.5) == (0, 24)
    first = read_rows(tmp_path / "second" / "metrics.jsonl")[0]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert first["drift/chosen"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "changed", [{"dtype": "bfloat16"}, {"savings": {"pack": False}}]
)
def test_another_dtype_or_way_of_the_forward_pass_misses(counted, changed):
    assert counted("first", dtype="float32") == (12, 0)
    assert counted("second", **changed) == (12, 0)


def test_the_attention_that_transformers_uses_is_part_of_the_key(base_model):
    model = load_base(str(base_model), "float32", torch.device("cpu"))
    engine = Engine(model, Layout(512, None, 0))
    before = context(engine, "hash")
    assert context(engine, "hash") == before
    model.config._attn_implementation = "eager"
    assert context(engine, "hash") != before


def test_a_row_cut_elsewhere_misses_and_the_others_hit(counted, tokenizer):
    """A cut of two tokens off the longest answer makes new ids of that answer alone."""
    longest = max(
        len(
            tokenizer.apply_chat_template(row["prompt"] + row[side], return_dict=True)[
                "input_ids"
            ]
        )
        for row in PAIRS
        for side in ("chosen", "rejected")
    )
    assert counted("first") == (12, 0)
    assert counted("second", max_length=longest - 2) == (1, 11)


def test_other_weights_miss(counted, make_run):
    """From an adapter, the base is known from its own training and the start is new."""
    parent = make_run("parent", **SHORT, learning_rate=1e-2)
    train_here(parent)
    folder = str(parent / "adapter")
    assert counted("fresh") == (12, 0)
    assert counted("onward", parent_adapter=folder, lora={}) == (12, 12)
    assert counted("again", parent_adapter=folder, lora={}, seed=3) == (0, 24)
    assert counted("based", parent_adapter=folder, lora={}, reference="base") == (0, 12)


def test_the_scale_of_an_adapter_is_part_of_its_weights(counted, make_run):
    parent = make_run("parent", **SHORT, learning_rate=1e-2)
    train_here(parent)
    scaled = parent / "scaled"
    shutil.copytree(parent / "adapter", scaled)
    settings = (scaled / "adapter_config.json").read_text()
    (scaled / "adapter_config.json").write_text(
        settings.replace('"lora_alpha": 8', '"lora_alpha": 16')
    )
    assert counted("one", parent_adapter=str(parent / "adapter"), lora={}) == (24, 0)
    assert counted("two", parent_adapter=str(scaled), lora={}) == (12, 12)


def test_each_layer_has_its_own_scale_in_the_key(counted, make_run, family, tmp_path):
    """Equal A and B, the scales 4 and 1/2 of the queries and the values swapped: the
    same set of scales, another adapter, and still a margin of 0 before the first step."""
    parent = build_adapter(family("llama"), tmp_path / "parent")
    swapped = shutil.copytree(parent, tmp_path / "swapped")
    for folder, scales in ((parent, (16, 2)), (swapped, (2, 16))):
        settings = read_json(folder / "adapter_config.json")
        settings["alpha_pattern"] = dict(zip(("q_proj", "v_proj"), scales, strict=True))
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    assert counted("one", parent_adapter=str(parent), lora={}) == (24, 0)
    assert counted("two", parent_adapter=str(swapped), lora={}) == (12, 12)
    first = read_rows(tmp_path / "two" / "metrics.jsonl")[0]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_before_the_first_step_margins_are_0(make_run, tmp_path):
    """Exactly where the reference pass laid out these very pairs; with log-probs from
    other passes within rounding (beta 0.1, sums of some 200, float32: 1e-5)."""
    cache = str(tmp_path / "cache")
    config = {**SHORT, "reference_cache": cache, "held_out": PAIRS}
    first = make_run("first", PAIRS[:3], **config)
    train_here(first)
    start = read_json(first / "summary.json")["held_out"]["start"]
    assert start["rewards/margins"] == pytest.approx(0, abs=1e-5)
    shutil.rmtree(cache)
    alone = make_run("alone", [chat("Other", "one", "two")], **config)
    train_here(alone)
    start = read_json(alone / "summary.json")["held_out"]["start"]
    assert start["rewards/margins"] == 0.0 and start["rewards/chosen"] == 0.0


def test_a_stop_keeps_what_was_computed(make_run, tmp_path):
    cache = str(tmp_path / "cache")
    run = make_run(**SHORT, micro_batch_size=1, reference_cache=cache)
    looks = next(n for n in range(1, 50) if stops_in(run, n, "reference", least=3))
    train_here(run)
    told = read_json(run / "summary.json")["reference"]
    assert told["computed"] < 12 and told["computed"] + told["cached"] == 12, looks


def stops_in(run, looks, phase, least):
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(looks))
    status = read_json(run / "status.json")
    return status["phase"] == phase and (status["phase_done"] or 0) >= least


def test_a_resumed_run_goes_on_with_the_log_probs_it_had(make_run, tmp_path):
    """Even if the cache, filled by other forward passes than its own, is gone."""
    cache = tmp_path / "cache"
    config = {"batch_size": 2, "epochs": 4, "held_out": PAIRS[:2]}
    filler = make_run(
        "filler", **config, micro_batch_size=1, reference_cache=str(cache)
    )
    train_here(filler)
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    whole = make_run("whole", **config, reference_cache=str(copy))
    train_here(whole)
    halved = make_run("halved", **config, reference_cache=str(cache))
    with pytest.raises(Stopped):
        run_folder(halved, StopAfter(14))
    assert read_rows(halved / "metrics.jsonl")
    shutil.rmtree(cache)
    elsewhere = make_run(
        "elsewhere", **config, reference_cache=str(cache), resume_from=str(halved)
    )
    for run in (halved, elsewhere):
        train_here(run)
        assert_same_run(run, whole)


def test_a_folder_that_cannot_be_written_stops_no_run(make_run, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    run = make_run(**SHORT, reference_cache=str(tmp_path / "file"))
    train_here(run)
    assert "reference cache cannot be written" in capsys.readouterr().err
    assert read_json(run / "summary.json")["reference"] == {"computed": 12, "cached": 0}


def test_no_random_number_is_drawn(make_run):
    """The order of pairs and dropout are the same whether the cache is full or empty:
    a run with dropout ends in the same weights."""
    config = {**SHORT, "held_out": PAIRS[:1], "lora": {"r": 4, "dropout": 0.3}}
    empty, full = make_run("empty", **config), make_run("full", **config)
    train_here(empty)
    (full / "reference").mkdir()
    for source in (empty / "reference").iterdir():
        (shutil.copytree if source.is_dir() else shutil.copyfile)(
            source, full / "reference" / source.name
        )
    train_here(full)
    assert_same_run(full, empty)


ABOUT = {"weights": "w", "dtype": "float32"}


def rows(*numbers, length=3):
    """{key: values} of made-up answers."""
    return {
        answer_key([1, 2], [number]): np.full(length, -number, dtype=np.float32)
        for number in numbers
    }


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        np.array_equal(found[key], wanted[key]) for key in wanted
    )


def test_where_the_prompt_ends_is_part_of_the_key():
    assert answer_key([1, 2], [3]) != answer_key([1], [2, 3])
    assert answer_key([1, 2], [3]) == answer_key([1, 2], [3])


def test_what_is_there_stays_as_it_was_first_stored(tmp_path):
    cache = LogpCache(tmp_path, ABOUT)
    assert same(cache.add(rows(1, 2)), rows(1, 2))
    changed = {key: value + 1 for key, value in rows(2).items()}
    assert same(cache.add({**changed, **rows(3)}), rows(2, 3))
    assert same(LogpCache(tmp_path, ABOUT).get([*rows(1, 2, 3, 4)]), rows(1, 2, 3))
    assert LogpCache(tmp_path, {**ABOUT, "dtype": "bfloat16"}).get(rows(1)) == {}


def test_writers_at_once_leave_one_value_for_each_answer(tmp_path):
    """Eight threads, each with values of its own for the same ten keys."""
    results = []

    def write(number):
        mine = {key: value - number for key, value in rows(*range(10)).items()}
        results.append(LogpCache(tmp_path, ABOUT).add(mine))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = LogpCache(tmp_path, ABOUT).get(rows(*range(10)))
    assert len(stored) == 10 and all(same(result, stored) for result in results)


def test_damage_is_noticed_row_by_row_and_mended(tmp_path):
    cache = LogpCache(tmp_path, ABOUT)
    cache.add(rows(1, 2, 3))
    (segment,) = cache.folder.glob("*.safetensors")
    content = bytearray(segment.read_bytes())
    place = content.index(np.float32(-2).tobytes())
    content[place] ^= 1
    segment.write_bytes(content)
    assert same(cache.get(rows(1, 2, 3)), rows(1, 3))
    assert same(cache.add(rows(2)), rows(2))
    assert same(cache.get(rows(1, 2, 3)), rows(1, 2, 3))


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_torn_file_counts_as_absent(tmp_path, left):
    cache = LogpCache(tmp_path, ABOUT)
    cache.add(rows(1))
    (segment,) = cache.folder.glob("*.safetensors")
    segment.write_bytes(segment.read_bytes()[:left])
    (cache.folder / "tmp-00000009.safetensors").write_bytes(b"half")
    assert cache.get(rows(1)) == {}
    assert same(cache.add(rows(1)), rows(1))
    assert same(cache.get(rows(1)), rows(1))
    assert not list(cache.folder.glob("tmp-*"))


def test_many_small_segments_become_one(tmp_path):
    cache = LogpCache(tmp_path, ABOUT)
    for number in range(2 * logp_cache.MOST_SEGMENTS + 5):
        cache.add(rows(number))
    every = rows(*range(2 * logp_cache.MOST_SEGMENTS + 5))
    assert same(cache.get(every), every)
    segments = list(cache.folder.glob("*.safetensors"))
    assert len(segments) <= logp_cache.MOST_SEGMENTS


def test_the_contexts_longest_unused_go_when_there_is_too_much(tmp_path, monkeypatch):
    old, used, own = (LogpCache(tmp_path, {"weights": name}) for name in "abc")
    for cache, seconds in ((old, 10), (used, 5)):
        cache.add(rows(1, length=1000))
        age(cache, seconds)
    used.get(rows(1))  # touches it
    age(old, 2)
    monkeypatch.setattr(logp_cache, "MOST_BYTES", 10_000)
    own.add(rows(1, length=1000))
    assert [cache.folder.is_dir() for cache in (old, used, own)] == [False, True, True]
    own.add(rows(2, length=5000))
    assert [cache.folder.is_dir() for cache in (used, own)] == [False, True]
    assert len(own.get(rows(1, length=1000))) == 1


def age(cache, seconds):
    then = time.time() - seconds
    os.utime(cache.folder / "about.json", (then, then))


def test_the_hash_of_the_base_is_remembered_while_its_files_stay(base_model, tmp_path):
    folder, memo = tmp_path / "base", tmp_path / "weights.json"
    shutil.copytree(base_model, folder, copy_function=shutil.copyfile)
    model = load_base(str(folder), "float32", torch.device("cpu"))
    assert remembered_hash(model, str(folder), memo) == hash_model(model)
    assert not memo.exists()  # its files were written just now and may change again
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    assert remembered_hash(model, str(folder), memo) == hash_model(model)
    ((stamp, _),) = read_json(memo).items()
    memo.write_text(json.dumps({stamp: "remembered"}))
    assert remembered_hash(model, str(folder), memo) == "remembered"
    other = load_base(str(folder), "bfloat16", torch.device("cpu"))
    assert remembered_hash(other, str(folder), memo) == hash_model(other)
    os.utime(folder / "model.safetensors", (time.time() - 30,) * 2)
    assert remembered_hash(model, str(folder), memo) == hash_model(model)


def test_sums_are_added_up_as_the_policys_are(make_run):
    """float32 sums depend on their order: 300 tokens, both ways."""
    values = torch.randn(300, generator=torch.Generator().manual_seed(0))
    answers = [(values.numpy(), values[:200].numpy())]
    logps = _sums(answers, torch.device("cpu"), None)
    assert logps.chosen == values.sum() and logps.rejected == values[:200].sum()
    weighted = _sums(answers, torch.device("cpu"), 0.5).chosen
    assert weighted == values[:200].sum() + 0.5 * values[200:].sum()

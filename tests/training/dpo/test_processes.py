"""Several processes give one process's numbers, and end and resume together."""

import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.processes import kernel_groups_sessions, niceness_of_session
from tests.training.dpo.processes import processes, train_in
from tests.training.dpo.runs import PAIRS, read_json, read_rows, train_here, write_run
from training.dpo.checkpoint import newest_checkpoint
from training.dpo.distributed import shared_out
from training.dpo.forward import Engine
from training.dpo.lock import folder_lock

CONFIG = {
    # of six pairs: the second step of an epoch has one, so one process has none
    "batch_size": 5,
    "epochs": 3,
    "eval_steps": 2,
    "learning_rate": 1e-3,
    "micro_batch_size": 2,
}
SHOWN = ("adapter/adapter_model.safetensors", "model/model.safetensors")


@pytest.fixture
def make(tmp_path, base_model):
    def make(name, **config):
        weighted = [row | {"weight": 1 + i % 3} for i, row in enumerate(PAIRS)]
        return write_run(
            tmp_path / name, base_model, weighted, PAIRS[:3], **CONFIG | config
        )

    return make


def figures(run):
    """The lines of metrics.jsonl but for what a clock decides."""
    rows = read_rows(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "pairs_per_second"} for row in rows]


def assert_close(row, other, within=1e-5):
    """The same keys and words, and numbers within that, of size or absolutely."""
    assert row.keys() == other.keys()
    for key, value in row.items():
        margin = other.get(key.replace("accuracies", "margins"))
        counted = key.endswith("rewards/accuracies") and margin is not None
        if counted and abs(margin) < within:
            continue  # strict, so at the start it counts roundings
        if isinstance(value, float):
            assert value == pytest.approx(other[key], rel=within, abs=within), key
        else:
            assert value == other[key], key


def assert_same_numbers(run, other, within=1e-5):
    """Every figure of every step, every trained weight, every pair's margin."""
    for mine, theirs in zip(figures(run), figures(other), strict=True):
        assert_close(mine, theirs, within)
    for name in SHOWN:
        assert (run / name).exists() == (other / name).exists()
        if (run / name).exists():
            mine, theirs = load_file(run / name), load_file(other / name)
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                torch.testing.assert_close(value, theirs[key], rtol=within, atol=within)
    ours, canary = read_json(run / "canary.json"), read_json(other / "canary.json")
    for mine, theirs in zip(ours["prompts"], canary["prompts"], strict=True):
        assert mine["logprobs"] == pytest.approx(theirs["logprobs"], abs=within)
        assert mine["base_logprobs"] == pytest.approx(
            theirs["base_logprobs"], abs=within
        )
    for mine, theirs in zip(
        read_rows(run / "pairs_scored.jsonl"),
        read_rows(other / "pairs_scored.jsonl"),
        strict=True,
    ):
        assert_close(mine, theirs, within)


@pytest.mark.parametrize(
    "config",
    [
        {"sft_epochs": 1},
        {"sharding": "full", "loss": {"aot": 1.0, "sft": 0.2}},
        {"tuning": "full", "sft_epochs": 1, "savings": {"checkpointing": True}},
        {"loss": "kto"},
    ],
    ids=[
        "adapter",
        "coupled losses, adapter on a sharded base",
        "full, sharded, layers run again",
        "single answers",
    ],
)
def test_two_processes_give_the_numbers_of_one(make, config):
    one, two = make("one", **config), make("two", **config)
    train_here(one)
    train_in(2, two)
    assert_same_numbers(two, one)
    summary = read_json(two / "summary.json")
    assert summary["processes"] == 2
    alone = read_json(one / "summary.json")
    assert summary["tokens"] == alone["tokens"]
    if config.get("tuning") != "full" and "sharding" not in config:
        name = "unlikely/chosen"
        assert_close(summary["held_out"][name], alone["held_out"][name])


LONG = {"epochs": 30, "save_steps": 3, "eval_steps": 20}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base_model):
    """A sharded run of 60 steps that two processes did without a break."""
    folder = tmp_path_factory.mktemp("left alone") / "run"
    write_run(
        folder, base_model, PAIRS, PAIRS[:3], **CONFIG | LONG | {"tuning": "full"}
    )
    train_in(2, folder)
    return folder


def assert_same_run(run, other):
    assert figures(run) == figures(other)
    for name in ("model/model.safetensors", "pairs_scored.jsonl", "canary.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()


def test_kill_9_of_either_process_at_any_step_changes_nothing(
    tmp_path, base_model, undisturbed
):
    """The other one ends by itself and writes status.json, be it process 0 or not."""
    run = write_run(
        tmp_path / "run",
        base_model,
        PAIRS,
        PAIRS[:3],
        **CONFIG | LONG | {"tuning": "full"},
    )
    for victim, lines in ((1, random.randint(1, 25)), (0, random.randint(30, 55))):
        with processes(run) as started:
            started.wait_for_lines(lines)
            started.processes[victim].kill()
            codes = started.codes()
            assert codes[victim] == -9 and codes[1 - victim] == 75
            assert "another process of the run was lost" in started.last_words(
                1 - victim
            )
        status = read_json(run / "status.json")
        assert status["state"] == "stopped" and status["total_steps"] == 60
        assert "another process of the run was lost" in status["reason"]
    train_in(2, run)
    assert_same_run(run, undisturbed)


def test_a_stop_that_one_process_hears_stops_all_and_one_process_can_go_on(
    tmp_path, base_model, undisturbed
):
    run = write_run(
        tmp_path / "run",
        base_model,
        PAIRS,
        PAIRS[:3],
        **CONFIG | LONG | {"tuning": "full"},
    )
    with processes(run) as started:
        started.wait_for_lines(7)
        started.processes[1].terminate()
        assert started.codes() == [75, 75]
        words = started.last_words(0)
        assert words == started.last_words(1)
    status = read_json(run / "status.json")
    assert status["state"] == "stopped" and f"{status['reason']}." in words
    assert newest_checkpoint(run / "checkpoints").name == f"step-{status['step']:08d}"
    train_here(run)  # what two processes wrote, one goes on from
    assert_same_numbers(run, undisturbed, 1e-4)


def out_of_memory(rank):
    """Process 1 has none left at its 30th pass."""
    passes, score = itertools.count(1), Engine.score

    def scored(engine, rows):
        if rank == 1 and next(passes) == 30:
            raise MemoryError
        return score(engine, rows)

    Engine.score = scored


def test_what_fails_in_one_process_is_the_sentence_of_all(make):
    run = make("run", epochs=30)
    with processes(run, fault=out_of_memory) as started:
        assert started.codes() == [1, 1]
        sentence = "Out of memory: set micro_batch_size to 1 and savings.side_by_side to false and resume, or lower max_length in a fresh run folder."
        assert [started.last_words(rank) for rank in (0, 1)] == [sentence] * 2
    status = read_json(run / "status.json")
    assert (status["state"], status["reason"]) == ("failed", sentence)


def test_a_locked_folder_is_left_alone_by_all(make):
    run = make("run")
    with folder_lock(run), processes(run) as started:
        assert started.codes() == [73, 73]
        assert "is locked by another trainer" in started.last_words(1)
    assert not (run / "status.json").exists()


def test_a_folder_that_cannot_be_written_is_said_by_all(make):
    run = make("run")
    (run / ".lock").mkdir()
    with processes(run) as started:
        assert started.codes() == [1, 1]
        assert "cannot be written" in started.last_words(0)
        assert "cannot be written" in started.last_words(1)


def test_bfloat16_trains_float32_weights_in_one_process_and_sharded(make):
    """Each update is under 1e-4, too small for most bfloat16 weights to move by: rounded
    away step by step, nothing would be learned.
    """
    runs = [
        make(name, tuning="full", dtype="bfloat16", learning_rate=1e-4, epochs=8)
        for name in ("one", "two")
    ]
    train_here(runs[0])
    train_in(2, runs[1])
    for run in runs:
        summary = read_json(run / "summary.json")
        assert summary["dtype"] == "bfloat16"
        assert summary["held_out"]["difference"]["loss"]["value"] < -0.1
        weights = load_file(run / "model" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        kept = load_file(newest_checkpoint(run / "checkpoints") / "state.safetensors")
        assert {value.dtype for value in kept.values()} == {torch.float32}


GATHERS = """
import torch
import torch.distributed as dist
from training.dpo.distributed import join

torch.set_num_threads(1)
join()
# of one process each: no waiting for the other one between two messages
group = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
part, whole = torch.ones(4), [torch.ones(4) for _ in range(256)]
for _ in range(500):
    options = dist.distributed_c10d.AllgatherOptions()
    for work in [
        group.allgather_into_tensor_coalesced([each], [part], options) for each in whole
    ]:
        work.wait()
"""
"""Many messages at once, of the kind that brings sharded weights together."""


def test_messages_at_once_leave_memory_in_order():
    """Two of gloo's threads freed one string: once in many sharded runs a process ended
    with "double free or corruption"."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", GATHERS],
            env=os.environ
            | {
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                # what is freed is looked at at once, not kept aside by each thread
                "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
            },
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()


def test_pairs_are_shared_out_by_their_tokens():
    """9 goes first, 7 to the other, 4 to the one with 7, 3 to the one with 9, …

    9 | 7, 9 | 7 + 4, 9 + 3 | 11, 12 | 11 + 2, 12 + 1 | 13.
    """
    assert shared_out([1, 9, 2, 7, 3, 4], 2) == [[0, 1, 4], [2, 3, 5]]
    assert shared_out([5], 2) == [[0], []]
    assert shared_out([], 2) == [[], []]


def torchrun(run):
    return subprocess.Popen(
        [
            *("nice", "-n", "5", sys.executable, "-m", "torch.distributed.run"),
            "--standalone",
            *("--nproc-per-node=2", "-m", "training.dpo", str(run)),
        ],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_step(run, step, process):
    while True:
        assert process.poll() is None
        if (run / "status.json").exists():
            status = read_json(run / "status.json")
            if status["state"] == "running" and status["step"] >= step:
                return
        time.sleep(0.05)


def trainers_of(run):
    """Pids of the trainer's processes in a run folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if str(run).encode() in words and b"torch.distributed.run" not in words:
                found.append(int(path.parent.name))
    return found


def test_torchrun_passes_a_stop_on_and_its_processes_do_not_outlive_it(make):
    """They lead sessions of their own, so no signal to torchrun's group reaches them, and
    its niceness counts only once their sessions have it, too."""
    run = make("run", epochs=5000, lora={"r": 4, "dropout": 0.1})
    process = torchrun(run)
    wait_for_step(run, 3, process)
    process.terminate()
    process.wait(300)
    status = read_json(run / "status.json")
    assert status["state"] == "stopped" and status["reason"].startswith("stopped after")
    assert newest_checkpoint(run / "checkpoints").name == f"step-{status['step']:08d}"

    process = torchrun(run)
    wait_for_step(run, status["step"] + 3, process)
    assert len(trainers_of(run)) == 2
    nice = os.nice(0) + 5 if kernel_groups_sessions() else None
    assert {niceness_of_session(pid) for pid in trainers_of(run)} == {nice}
    process.kill()
    process.wait(300)
    while trainers_of(run):
        time.sleep(0.05)
    later = read_json(run / "status.json")
    assert later["state"] == "stopped" and later["step"] > status["step"]
    assert newest_checkpoint(run / "checkpoints").name == f"step-{later['step']:08d}"
    assert [row["step"] for row in figures(run)] == list(range(1, later["step"] + 1))

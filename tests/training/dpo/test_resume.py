"""Stopped, killed and resumed runs write what an uninterrupted one writes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from transformers import AutoTokenizer

from tests.training.dpo.runs import (
    PAIRS,
    read_json,
    read_rows,
    train_here,
    write_rows,
    write_run,
)
from training.dpo.__main__ import main
from training.dpo.checkpoint import (
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from training.dpo.data import Answer, Pair, digest_of
from training.dpo.errors import FolderLocked, Stopped, TrainerError
from training.dpo.files import sha256_of_file
from training.dpo.lock import folder_lock
from training.dpo.prepare import ROWS_A_LOOK
from training.dpo.process import StopFlag
from training.dpo.row_tokens import tokenized
from training.dpo.run import run_folder
from training.dpo.status import StatusFile

CONFIG = {
    "batch_size": 2,
    "epochs": 60,
    "save_steps": 7,
    "eval_steps": 20,
    "learning_rate": 1e-3,
    # dropout draws random numbers, so its generator must be resumed too
    "lora": {"r": 4, "dropout": 0.1},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, base_model):
    folder = tmp_path_factory.mktemp("left alone") / "run"
    train_here(write_run(folder, base_model, held_out=PAIRS[:1], **CONFIG))
    return folder


@pytest.fixture
def command(capsys):
    """`python -m training.dpo`, in this process: (exit code, last line on stderr)."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }

    def run_command(*arguments):
        code = main([str(argument) for argument in arguments])
        errors = capsys.readouterr().err.splitlines()
        return code, errors[-1] if errors else ""

    yield run_command
    for number, handler in before.items():
        signal.signal(number, handler)


def without_speed(run):
    """The lines of metrics.jsonl but for what a clock decides."""
    rows = read_rows(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "pairs_per_second"} for row in rows]


def assert_same_run(run, other):
    assert without_speed(run) == without_speed(other)
    for name in (
        "adapter/adapter_model.safetensors",
        "pairs_scored.jsonl",
        "held_out_scored.jsonl",
        "canary.json",
    ):
        assert (run / name).read_bytes() == (other / name).read_bytes()


def start(run, *options, **environment):
    """The trainer as its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "training.dpo", str(run), *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", **environment},
    )


def wait_for_lines(run, count, process):
    """Until metrics.jsonl holds `count` lines."""
    deadline = time.monotonic() + 300
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


class StopAfter(StopFlag):
    """A stop asked for when the loop looks for it the n-th time."""

    def __init__(self, looks):
        self.looks = looks
        super().__init__()

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0

    @requested.setter
    def requested(self, value):
        pass


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(
    make_run, uninterrupted, command
):
    run = make_run(held_out=PAIRS[:1], **CONFIG)
    process = start(run)
    wait_for_lines(run, 2, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert errors.splitlines()[-1].startswith("Stopped: stopped after step")
    status = read_json(run / "status.json")
    assert status["state"] == "stopped" and 0 < status["step"] < 180
    assert newest_checkpoint(run / "checkpoints").name == f"step-{status['step']:08d}"

    assert command(run)[0] == 0
    assert_same_run(run, uninterrupted)


def test_ctrl_c_is_heard_at_once_and_is_a_stop(make_run, capfd):
    """Before the model is loaded too: nothing is read but the command."""
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stop, run = StopFlag(), make_run(base_model="nowhere")
    stop.install()
    os.kill(os.getpid(), signal.SIGINT)
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)
    assert "the same command goes on" in capfd.readouterr().err
    with pytest.raises(Stopped):
        run_folder(run, stop)
    assert read_json(run / "status.json")["state"] == "stopped"


def test_kill_9_at_any_step_goes_on_from_the_newest_complete_checkpoint(
    make_run, uninterrupted
):
    run = make_run(held_out=PAIRS[:1], **CONFIG)
    process = start(run)
    wait_for_lines(run, random.randint(8, 150), process)
    process.kill()
    process.communicate()
    # What a crash in the middle of a write leaves behind:
    newest = newest_checkpoint(run / "checkpoints")
    torn = newest.with_name("step-00009999")
    shutil.copytree(newest, torn)
    (torn / "state.safetensors").write_bytes(b"torn")
    (run / "checkpoints" / "tmp-step-00009998").mkdir()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 178, "loss": 1.0}\n{"step": 17')
    train_here(run)
    assert_same_run(run, uninterrupted)
    assert not torn.exists()


def test_a_stop_at_any_point_of_the_run_changes_nothing(make_run, uninterrupted):
    """Stopped again and again, each time a few looks later, until it is done."""
    run = make_run(held_out=PAIRS[:1], **CONFIG)
    stops = 0
    for looks in (1, 5, 6, 7, 8, 30, 47, 1000):
        try:
            run_folder(run, StopAfter(looks))
        except Stopped:
            stops += 1
            assert read_json(run / "status.json")["state"] == "stopped"
    assert stops == 7
    assert read_json(run / "status.json")["state"] == "done"
    assert_same_run(run, uninterrupted)


def test_a_stop_is_heard_while_rows_are_read(make_run, monkeypatch):
    """Rendering many takes minutes."""
    rows = [{**PAIRS[0], "id": n} for n in range(100)]
    run, stop, rendered = make_run(pairs=rows), StopFlag(), []

    def asked(row, *others):
        rendered.append(row["id"])
        stop.requested = True
        return tokenized(row, *others)

    monkeypatch.setattr("training.dpo.data.tokenized", asked)
    with pytest.raises(Stopped):
        run_folder(run, stop)
    assert rendered == list(range(ROWS_A_LOOK))
    assert read_json(run / "status.json")["state"] == "stopped"


def test_a_checkpoint_is_read_through_twice_at_a_resume(make_run, monkeypatch):
    """To find it, and to drop what is broken: of 7 billion trained weights it is 84 GB."""
    run, hashed = make_run(batch_size=2, epochs=5, save_steps=4), []
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(14))
    newest = newest_checkpoint(run / "checkpoints")

    def counted(path):
        hashed.append(path)
        return sha256_of_file(path)

    monkeypatch.setattr("training.dpo.checkpoint.sha256_of_file", counted)
    train_here(run)
    names = ("state.safetensors", "state.json")
    assert [hashed.count(newest / name) for name in names] == [2, 2]


def test_another_folder_resumes_from_an_earlier_attempts(make_run, uninterrupted):
    first = make_run("first", held_out=PAIRS[:1], **CONFIG)
    with pytest.raises(Stopped):
        run_folder(first, StopAfter(40))
    second = make_run("second", held_out=PAIRS[:1], **CONFIG, resume_from=str(first))
    train_here(second)
    assert_same_run(second, uninterrupted)


@pytest.mark.parametrize("from_another_folder", [False, True])
def test_a_resumed_run_never_says_that_it_is_at_step_0(
    from_another_folder, make_run, monkeypatch
):
    """Loading takes minutes for a large model, and whoever looks would think that all
    was lost."""
    config = {"batch_size": 2, "epochs": 5, "save_steps": 4}
    run, told = make_run(**config), []
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(14))
    stopped_at = read_json(run / "status.json")["step"]
    if from_another_folder:
        run = make_run("second", **config, resume_from=str(run))
    write = StatusFile._write

    def noted(status, durable):
        told.append((status.values["phase"], status.values["step"]))
        write(status, durable)

    monkeypatch.setattr(StatusFile, "_write", noted)
    train_here(run)
    assert told[0] == ("loading", stopped_at) and stopped_at > 0
    assert min(step for _, step in told) == stopped_at


def test_a_finished_run_started_again_ends_the_same(uninterrupted, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(uninterrupted, copy)
    train_here(copy)
    assert_same_run(copy, uninterrupted)


def test_a_checkpoint_of_another_config_is_refused(make_run):
    run = make_run(**CONFIG)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(20))
    config = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps(config | {"beta": 0.2}))
    with pytest.raises(TrainerError, match="belongs to another config") as raised:
        train_here(run)
    assert 'What differs: "beta" in config.json. Use a fresh' in str(raised.value)


def test_a_run_out_of_memory_goes_on_as_its_sentence_says(make_run):
    """Two passes of many pairs at once become one of one pair; all but rounding stays."""
    config = CONFIG | {"epochs": 6, "lora": {"r": 4}}
    whole, run = make_run("whole", **config), make_run("run", **config)
    train_here(whole)
    torch.set_num_threads(2)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(14))
    torch.set_num_threads(1)
    _, state = load_checkpoint(newest_checkpoint(run / "checkpoints"))
    assert state["lanes"] == 2
    smaller = {"micro_batch_size": 1, "savings": {"side_by_side": False}}
    text = json.dumps(read_json(run / "config.json") | smaller)
    (run / "config.json").write_text(text)
    train_here(run)
    torch.set_num_threads(1)
    _, state = load_checkpoint(newest_checkpoint(run / "checkpoints"))
    assert state["lanes"] == 1
    for row, wanted in zip(without_speed(run), without_speed(whole), strict=True):
        assert row["step"] == wanted["step"]
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


MADE_OF_PAIRS = "what tokenizer and chat template make of pairs.jsonl"


def test_other_held_out_pairs_or_another_template_are_refused_by_name(
    make_run, base_model, tmp_path
):
    """Line 2 of held_out.jsonl has another answer; the template has one word more."""
    base = shutil.copytree(base_model, tmp_path / "base")
    run = make_run(held_out=PAIRS[:2], **CONFIG, base_model=str(base))
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(20))
    metrics = (run / "metrics.jsonl").read_bytes()
    write_rows(run / "held_out.jsonl", [PAIRS[0], PAIRS[2]])
    with pytest.raises(TrainerError, match=r"What differs: held_out\.jsonl, what "):
        train_here(run)
    write_rows(run / "held_out.jsonl", PAIRS[:2])
    template = base / "chat_template.jinja"
    changed = template.read_text().replace("<|im_start|>{{", "<|im_start|>Sir {{")
    template.write_text(changed)
    with pytest.raises(TrainerError) as raised:
        train_here(run)
    made = f"{MADE_OF_PAIRS}, {MADE_OF_PAIRS.replace('pairs', 'held_out')}"
    assert f"What differs: {made}. Use a fresh" in str(raised.value)
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_weights_and_labels_of_rows_count_as_rows_do():
    pair = Pair("a", 1, [1, 2], [3], [4])
    others = [replace(pair, **{key: value}) for key, value in OTHERWISE.items()]
    label = [Answer("a", 1, [1], [3], [], 1.0, label, [3]) for label in (True, False)]
    digests = [digest_of([row]) for row in (pair, *others, *label)]
    assert len(set(digests)) == len(OTHERWISE) + 3
    assert digest_of([pair, others[0]]) != digest_of([others[0], pair])


OTHERWISE = {
    "id": "b",
    "prompt_ids": [1],
    "chosen_ids": [5],
    "rejected_ids": [3],
    "weight": 2.0,
}


def test_a_checkpoint_of_an_earlier_version_is_refused_in_a_sentence(make_run):
    run = make_run(**CONFIG)
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(20))
    newest = newest_checkpoint(run / "checkpoints")
    tensors, state = load_checkpoint(newest)
    shutil.rmtree(newest)
    step = state.pop("step")
    save_checkpoint(newest.parent, step, tensors, state | {"fingerprint": "0f3a"})
    with pytest.raises(TrainerError, match="was written by an earlier version of the"):
        train_here(run)


def test_a_template_that_prints_the_date_prints_that_of_the_first_start(
    make_run, base_model, tmp_path, monkeypatch
):
    """As Llama 3.1's does. Stopped on the 1st of January and resumed on the 2nd."""
    base = shutil.copytree(base_model, tmp_path / "base")
    template = base / "chat_template.jinja"
    template.write_text(
        "Today: {{ strftime_now('%d %b %Y') }}\n" + template.read_text()
    )
    days = iter((1, 2, 2))

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2030, 1, next(days), 23, 59)

    monkeypatch.setattr("training.dpo.prepare.datetime", Clock)
    run = make_run(**CONFIG | {"epochs": 4}, base_model=str(base))
    with pytest.raises(Stopped):
        run_folder(run, StopAfter(14))
    train_here(run)
    canary = read_json(run / "canary.json")["prompts"][0]["token_ids"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.decode(canary).startswith("Today: 01 Jan 2030")
    fresh = make_run("fresh", **CONFIG | {"epochs": 4}, base_model=str(base))
    train_here(fresh)
    canary = read_json(fresh / "canary.json")["prompts"][0]["token_ids"]
    assert tokenizer.decode(canary).startswith("Today: 02 Jan 2030")


def test_a_folder_that_cannot_be_written_is_said(make_run, command):
    """It was a PermissionError over a traceback. Root may write anywhere: a lock that
    is no file refuses it, too."""
    run = make_run()
    (run / ".lock").mkdir()
    code, last = command(run)
    assert code == 1
    assert last.startswith(f"{run} cannot be written (Is a directory): a run keeps its")
    assert not (run / "status.json").exists()


def test_a_locked_folder_is_left_alone(make_run, command):
    run = make_run()
    with folder_lock(run):
        code, last = command(run)
    assert code == 73
    assert last.startswith(f"{run} is locked by another trainer")
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "config.json",
        "pairs.jsonl",
    ]
    with folder_lock(run), pytest.raises(FolderLocked), folder_lock(run):
        pass


def test_the_trainer_dies_with_its_parent(make_run):
    """A parent that is killed takes the trainer along, which writes a checkpoint."""
    run = make_run(**CONFIG | {"epochs": 5000})
    script = (
        "import os, subprocess, sys;"
        "subprocess.Popen([sys.executable, '-m', 'training.dpo', sys.argv[1]],"
        " env=os.environ | {'TIEBREAK_DIE_WITH_PARENT': str(os.getpid())}).wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(run)],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    while (
        not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_bytes()
    ):
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    while read_json(run / "status.json")["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert read_json(run / "status.json")["state"] == "stopped"
    assert newest_checkpoint(run / "checkpoints") is not None


def test_a_parent_already_gone_ends_the_trainer_at_once(make_run):
    run = make_run()
    process = start(run, "--die-with-parent", "1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "the process that started the trainer is gone" in errors


def test_a_failure_ends_with_one_sentence(make_run, command, tmp_path):
    run = make_run(learning_rat=1)
    code, last = command(run)
    assert code == 1
    assert last == (
        'config.json: unknown key "learning_rat"; the nearest known one is "learning_rate".'
    )
    status = read_json(run / "status.json")
    assert (status["state"], status["reason"]) == ("failed", last)
    assert command(tmp_path / "nowhere") == (1, f"{tmp_path / 'nowhere'} is no folder.")


def test_a_base_model_that_cannot_be_loaded_is_named(make_run, command, tmp_path):
    (tmp_path / "empty").mkdir()
    code, last = command(make_run(base_model=str(tmp_path / "empty")))
    assert code == 1
    assert last.startswith(f'The tokenizer of base_model "{tmp_path / "empty"}"')


def refuse_writes(run, name):
    """The disk is full where `name` is written next, as /dev/full has it."""
    (run / f".{name}.tmp-{os.getpid()}").symlink_to("/dev/full")


def test_a_run_on_a_full_disk_says_so_and_goes_on_once_there_is_room(make_run):
    run = make_run(held_out=PAIRS[:1], batch_size=3, epochs=1)
    refuse_writes(run, "held_out_scored.jsonl")
    with pytest.raises(TrainerError, match="The disk is full; free some space and re"):
        train_here(run)
    status = read_json(run / "status.json")
    assert status["state"] == "failed" and status["reason"].startswith("The disk is f")
    assert not list(run.glob(".*tmp*"))
    train_here(run)
    assert read_json(run / "status.json")["state"] == "done"


def test_the_end_is_told_even_where_no_new_file_fits(tmp_path):
    status = StatusFile(tmp_path)
    status.phase("training", step=3, total_steps=12, warnings=["a long one"] * 50)
    refuse_writes(tmp_path, "status.json")
    status.values["warnings"] = []
    status.finish("failed", "The disk is full.")
    told = read_json(tmp_path / "status.json")
    assert (told["state"], told["reason"]) == ("failed", "The disk is full.")
    assert told["step"] == 3


def test_two_checkpoints_are_kept_and_a_full_disk_is_said(tmp_path, monkeypatch):
    tensors = {"weights.a": torch.ones(3)}
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, tensors, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000002",
        "step-00000003",
    ]
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(TrainerError, match="disk is too full"):
        save_checkpoint(tmp_path, 4, tensors, {})
    assert newest_checkpoint(tmp_path).name == "step-00000003"

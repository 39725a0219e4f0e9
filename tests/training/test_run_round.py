"""run_round with a real trainer process: what it makes of a round, and why it fails one.

Attempts that are broken off are in test_broken_off_attempts.py.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from django.conf import settings as django_settings

from inference.models import Policy
from tests.training.conftest import (
    STUB,
    in_background,
    lines,
    states,
)
from training import ingest, runfolder
from training.models import TrainingRound
from training.rounds import start_round
from training.running import run_round

pytestmark = pytest.mark.django_db
threads = pytest.mark.django_db(transaction=True)


def test_a_round_goes_from_queued_to_one_policy(queued):
    run_round(queued.pk)
    queued.refresh_from_db()
    assert (queued.state, queued.error) == ("succeeded", "")
    assert states(queued) == [
        "queued",
        "preparing",
        "training",
        "publishing",
        "succeeded",
    ]
    assert queued.policy.parent == queued.project.base
    assert queued.policy.channel == queued.project.channel
    assert (queued.step, queued.total_steps, queued.epoch) == (20, 20, 1)
    assert queued.summary["steps"] == 20
    assert queued.started_at < queued.finished_at
    assert list(queued.metrics.values_list("step", flat=True)) == list(range(1, 21))
    assert queued.metrics.get(step=20).values["rewards/margins"] == pytest.approx(0.6)
    margins = queued.round_pairs.order_by("pair_id").values_list(
        "final_margin", flat=True
    )
    assert list(margins) == [0.5, 1.5, 2.5]
    # The project has no auto_deploy: the policy is a candidate.
    assert queued.project.channel.serving == queued.project.base
    # Nothing resumes a succeeded round: its checkpoints are gone, its figures stay.
    folder = runfolder.attempt_folder(queued, 1)
    assert not (folder / "checkpoints").exists()
    assert (folder / "metrics.jsonl").exists() and (folder / "adapter").is_dir()


def test_the_run_folder_holds_the_frozen_pairs_and_the_config(queued):
    TrainingRound.objects.filter(pk=queued.pk).update(config={"beta": 0.3, "seed": 7})
    run_round(queued.pk)
    folder = runfolder.attempt_folder(queued, 1)
    config = json.loads((folder / "config.json").read_text())
    assert config["beta"] == 0.3 and config["seed"] == 7
    assert config["base_model"] == queued.start.base_model
    assert config["parent_adapter"] is None and config["resume_from"] is None
    assert config["reference"] == "base"
    frozen = (queued.folder / "pairs.jsonl").read_bytes()
    assert (folder / "pairs.jsonl").read_bytes() == frozen
    assert len((folder / "held_out.jsonl").read_text().splitlines()) == 1


def test_running_it_again_changes_nothing(queued):
    run_round(queued.pk)
    events = states(queued)
    run_round(queued.pk)
    run_round(404)
    assert states(queued) == events
    assert Policy.objects.filter(number__gt=0).count() == 1
    assert len(lines(queued, "starts")) == 1


@pytest.mark.both_databases
@threads
def test_a_hundred_nudges_at_once_start_one_trainer(queued):
    threads = [in_background(queued.pk) for _ in range(8)]
    for thread in threads:
        thread.join()
    queued.refresh_from_db()
    assert queued.state == "succeeded" and queued.epoch == 1
    assert len(lines(queued, "starts")) == 1


def test_a_round_from_an_adapter_names_its_folder(queued, manager):
    run_round(queued.pk)
    policy = Policy.objects.get(number=1)
    again = start_round(queued.project, manager, start=policy, config={"seed": 8})
    run_round(again.pk)
    config = json.loads(
        (runfolder.attempt_folder(again, 1) / "config.json").read_text()
    )
    assert config["parent_adapter"] == str(policy.adapter_path)
    again.refresh_from_db()
    assert again.policy.parent == policy


def test_a_failure_says_why_and_where_the_log_is(queued):
    TrainingRound.objects.filter(pk=queued.pk).update(config={"seed": 13})
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed"
    assert "The stub was told to fail." in queued.error
    log = f"{queued.pk}/attempt-1/stderr.log"
    assert log in queued.error or "stderr.log" in queued.error
    assert str(django_settings.DATA_DIR) not in queued.error
    assert not Policy.objects.filter(number__gt=0).exists()


def test_a_trainer_that_cannot_even_start_is_a_failure_with_its_last_words(
    queued, settings
):
    settings.TRAINER_COMMAND = ["sh", "-c", "echo no such model >&2; exit 4"]
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed" and "no such model" in queued.error


def test_torchrun_and_python_are_those_of_this_environment(
    queued, settings, monkeypatch
):
    """`make run` activates none, so its bin folder is on nobody's PATH."""
    monkeypatch.setenv("PATH", "/nowhere")
    settings.TRAINER_COMMAND = ["python", *STUB[1:]]
    run_round(queued.pk)
    queued.refresh_from_db()
    assert (queued.state, queued.error) == ("succeeded", "")
    assert (Path(sys.executable).parent / "torchrun").exists()


def test_changed_pairs_are_not_trained_on(queued):
    with open(queued.folder / "pairs.jsonl", "a") as file:
        file.write("{}\n")
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed" and "pairs.jsonl" in queued.error
    assert not lines(queued, "starts")


def test_the_same_files_twice_are_said_to_be_nothing_new(queued, manager, settings):
    """The stub's adapter depends on its round's folder; here it is the same one."""
    run_round(queued.pk)
    again = start_round(queued.project, manager)
    first = runfolder.attempt_folder(queued, 1)
    copy = f"cp -r {first}/adapter {first}/*.json $0/"
    settings.TRAINER_COMMAND = ["sh", "-c", copy]
    run_round(again.pk)
    again.refresh_from_db()
    assert again.state == "failed"
    assert Policy.objects.get(number=1).name in again.error


def test_a_broken_adapter_is_no_policy(queued, settings):
    settings.TRAINER_COMMAND = [
        "sh",
        "-c",
        'mkdir $0/adapter; echo \'{"state": "done"}\' > $0/status.json',
    ]
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "failed"
    assert "could not become a policy" in queued.error


@pytest.mark.parametrize(
    "where", ["training.ingest.store_metrics", "inference.policies.register_policy"]
)
def test_what_is_missing_is_told_without_the_machines_folders(
    queued, monkeypatch, settings, tmp_path, where
):
    settings.DATA_DIR = tmp_path

    def broken(*_args):
        (queued.folder / "gone.json").read_text()

    monkeypatch.setattr(where, broken)
    run_round(queued.pk)
    detail = queued.events.last().detail
    assert f"No such file or directory: rounds/{queued.pk}/gone.json" in detail
    assert str(tmp_path) not in detail and "Errno" not in detail


def test_a_fault_of_ours_gives_the_round_back(queued, monkeypatch):
    def broken(*_args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(ingest, "store_metrics", broken)
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "queued" and queued.attempts == 1
    assert "a bug" in queued.events.last().detail
    pid = int(lines(queued, "starts")[0].split()[1])
    assert not os.path.exists(f"/proc/{pid}")

"""The real trainer under the real supervisor, on a model of a few thousand weights."""

import json
import os
import signal
import sys
import threading

import pytest
from django.db import connections

from inference.base import base_sha256
from inference.models import Policy
from tests.factories import (
    make_base,
    make_comparison,
    make_completion,
    make_pair,
    make_project,
    make_prompt,
)
from tests.training.dpo.conftest import base_model, family
from training import runfolder
from training.rounds import start_round
from training.running import run_round
from training.trainer import LOCK

__all__ = ["base_model", "family"]  # session fixtures, borrowed

pytestmark = pytest.mark.django_db(transaction=True)

CONFIG = {
    "epochs": 8,
    "batch_size": 2,
    "save_steps": 1,
    "learning_rate": 1e-3,
    "lora": {"r": 4},
    "dtype": "float32",
}
"""6 pairs, 2 a step, 8 epochs: 24 steps."""


@pytest.fixture
def base(db, base_model):
    digest = base_sha256(base_model)
    return make_base(
        name=f"policy-0000-{digest[:8]}",
        base_model=str(base_model),
        base_sha256=digest,
    )


@pytest.fixture
def project(manager, base):
    return make_project(base=base, members={manager: "manager"})


@pytest.fixture(autouse=True)
def _real_trainer(settings, monkeypatch):
    settings.TRAINER_COMMAND = [sys.executable, "-m", "training.dpo"]
    # Sums depend on how they are split among threads.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def kill_after(training_round, step):
    """SIGKILL the trainer once it has a checkpoint of `step`."""
    folder = runfolder.attempt_folder(training_round, 1)
    while (runfolder.newest_checkpoint_step(folder) or 0) < step:
        threading.Event().wait(0.01)
    os.kill(int((training_round.folder / LOCK).read_text()), signal.SIGKILL)


def test_killed_and_resumed_it_gives_the_very_policy_of_an_undisturbed_run(
    project, manager
):
    for number in range(8):
        prompt = make_prompt(project=project, is_held_out=number >= 6)
        chosen = make_completion("Good.", prompt=prompt, token_ids=[40, 41, number, 2])
        rejected = make_completion("Bad.", prompt=prompt, token_ids=[90, 91, number, 2])
        make_pair(comparison=make_comparison(a=chosen, b=rejected))
    training_round = start_round(project, manager, config=CONFIG)
    killer = threading.Thread(target=kill_after, args=(training_round, 3))
    killer.start()
    run_round(training_round.pk)
    killer.join()
    connections.close_all()
    training_round.refresh_from_db()
    assert training_round.state == "queued", training_round.error

    run_round(training_round.pk)
    training_round.refresh_from_db()
    assert training_round.state == "succeeded", training_round.error
    steps = training_round.metrics.filter(phase="dpo", step__gt=0)
    assert list(steps.values_list("step", flat=True)) == list(range(1, 25))
    first, last = steps.first().values, steps.last().values
    assert last["rewards/margins"] > first["rewards/margins"]
    assert training_round.total_steps == 24 and training_round.summary["steps"] == 24
    assert not training_round.round_pairs.filter(final_margin=None).exists()
    held_out = training_round.summary["rows"]["held_out.jsonl"]
    assert held_out["used"] == 2
    policy = Policy.objects.get(number__gt=0)
    assert training_round.policy == policy and policy.rank == 4

    # The same pairs and settings, undisturbed: the same files, so nothing new.
    again = start_round(project, manager, config=CONFIG)
    run_round(again.pk)
    again.refresh_from_db()
    assert again.state == "failed" and policy.name in again.error
    assert Policy.objects.filter(number__gt=0).count() == 1
    assert reference_of(again) == {"computed": 0, "cached": 16}


def test_a_round_killed_after_its_supervised_steps_goes_on_in_a_new_attempt(
    project, manager
):
    """6 supervised steps, then 24 of DPO; killed after the second of those. The next
    attempt's folder is a new one: the reference, the weights after the sixth step, is
    found again, or held-out rewards would not start at 0 and go on from there.
    """
    for number in range(8):
        prompt = make_prompt(project=project, is_held_out=number >= 6)
        chosen = make_completion("Good.", prompt=prompt, token_ids=[40, 41, number, 2])
        rejected = make_completion("Bad.", prompt=prompt, token_ids=[90, 91, number, 2])
        make_pair(comparison=make_comparison(a=chosen, b=rejected))
    config = CONFIG | {"sft_epochs": 2, "sft_learning_rate": 5e-3, "eval_steps": 1}
    training_round = start_round(project, manager, reference="start", config=config)
    killer = threading.Thread(target=kill_after, args=(training_round, 8))
    killer.start()
    run_round(training_round.pk)
    killer.join()
    connections.close_all()
    run_round(training_round.pk)
    training_round.refresh_from_db()
    assert training_round.state == "succeeded", training_round.error
    supervised = training_round.metrics.filter(phase="sft").order_by("step")
    assert list(supervised.values_list("step", flat=True)) == list(range(1, 7))
    first, last = supervised.first().values, supervised.last().values
    assert last["eval_logps/chosen"] > first["eval_logps/chosen"]
    assert "rewards/margins" not in first
    steps = training_round.metrics.filter(phase="dpo").order_by("step")
    assert list(steps.values_list("step", flat=True)) == list(range(7, 31))
    margins = [row.values["eval_rewards/margins"] for row in steps]
    assert margins == sorted(margins) and margins[0] == 0


def test_a_later_round_computes_the_reference_of_its_new_pairs_alone(project, manager):
    """Cumulative rounds share their reference, the base: of four pairs three are known."""
    for number in range(4):
        prompt = make_prompt(project=project)
        chosen = make_completion("Good.", prompt=prompt, token_ids=[40, 41, number, 2])
        rejected = make_completion("Bad.", prompt=prompt, token_ids=[90, 91, number, 2])
        make_pair(comparison=make_comparison(a=chosen, b=rejected))
        if number >= 2:
            rate = 1e-3 * number  # which does not touch the reference
            config = CONFIG | {"epochs": 1, "learning_rate": rate, "seed": number}
            training_round = start_round(project, manager, config=config)
            run_round(training_round.pk)
            training_round.refresh_from_db()
            assert training_round.state == "succeeded", training_round.error
            known = 0 if number == 2 else 6
            wanted = {"computed": 2 * (number + 1) - known, "cached": known}
            assert reference_of(training_round) == wanted


def reference_of(training_round):
    """Answers whose reference the round computed, and those it found."""
    folder = runfolder.attempts(training_round)[-1][1]
    return json.loads((folder / "summary.json").read_text("utf-8"))["reference"]

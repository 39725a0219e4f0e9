"""What the tests of rounds share: a project with pairs, the stub trainer, no broker."""

import sys
import threading

import pytest
from django.db import connections

from annotation import shutdown
from inference.base import base_sha256
from tests.factories import (
    make_base,
    make_comparison,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)
from tests.training.tiny_adapter import write_base
from training.models import TrainingRound
from training.rounds import start_round
from training.running import run_round

STUB = [sys.executable, "-m", "tests.training.stub_trainer"]


def take_back_the_stop():
    """As if nobody had asked the worker to stop: all tests are one process."""
    shutdown._flag[0] = 0


@pytest.fixture(autouse=True)
def _rounds_folder(settings, tmp_path):
    """Row ids come again in every test, so folders named by them must not."""
    settings.ROUNDS_DIR = tmp_path / "rounds"
    settings.REFERENCE_CACHE_DIR = tmp_path / "reference-cache"
    settings.POLICIES_DIR = tmp_path / "policies"
    settings.ROUND_TICK = 0.02
    settings.TRAINER_COMMAND = STUB
    take_back_the_stop()


@pytest.fixture(autouse=True)
def nudges(monkeypatch):
    """The rounds that Celery was told of, instead of a broker."""
    from training.tasks import train_round

    sent = []
    # An earlier test may have met no broker, or its late hint may meet none now, after
    # which none is tried for a while.
    monkeypatch.setattr("annotation.nudging._quiet_until", 0.0)
    monkeypatch.setattr("annotation.nudging.PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(
        train_round, "apply_async", lambda args, **_options: sent.append(args[0])
    )
    return sent


@pytest.fixture
def manager(db):
    return make_user("mara")


@pytest.fixture
def base(db, tmp_path):
    folder = write_base(tmp_path / "base")
    digest = base_sha256(folder)
    return make_base(
        name=f"policy-0000-{digest[:8]}", base_model=str(folder), base_sha256=digest
    )


@pytest.fixture
def project(manager, base):
    return make_project(base=base, members={manager: "manager"})


def make_pairs(project, count, *, held_out=0):
    """`count` sound pairs and `held_out` on prompts set aside."""
    prompts = [
        make_prompt(project=project, is_held_out=number >= count)
        for number in range(count + held_out)
    ]
    return [make_pair(comparison=make_comparison(prompt=prompt)) for prompt in prompts]


@pytest.fixture
def queued(project, manager):
    """A round of three pairs, one more held out, waiting for a worker."""
    make_pairs(project, 3, held_out=1)
    return start_round(project, manager)


def set_row(training_round, **fields):
    TrainingRound.objects.filter(pk=training_round.pk).update(**fields)
    training_round.refresh_from_db()


@pytest.fixture
def as_manager(client, manager):
    client.force_login(manager)
    return client


@pytest.fixture
def as_reviewer(client, project):
    client.force_login(make_user(project=project, role="reviewer"))
    return client


def states(training_round):
    return list(training_round.events.values_list("state", flat=True))


def lines(training_round, name):
    path = training_round.folder / name
    return path.read_text().splitlines() if path.exists() else []


def in_background(round_id):
    """run_round in a thread that lives as long as its trainer."""

    def run():
        try:
            run_round(round_id)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread

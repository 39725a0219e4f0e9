"""What the tests of rounds share: a project with pairs, the stub trainer, no broker."""

import sys

import pytest

from tests.factories import make_pair, make_project, make_prompt, make_user
from training import shutdown


@pytest.fixture(autouse=True)
def _rounds_folder(settings, tmp_path):
    """Row ids come again in every test, so folders named by them must not."""
    settings.ROUNDS_DIR = tmp_path / "rounds"
    settings.POLICIES_DIR = tmp_path / "policies"
    settings.ROUND_TICK = 0.02
    settings.TRAINER_COMMAND = [sys.executable, "-m", "tests.training.stub_trainer"]
    shutdown.forget()


@pytest.fixture(autouse=True)
def nudges(monkeypatch):
    """The rounds that Celery was told of, instead of a broker."""
    from training.tasks import train_round

    sent = []
    monkeypatch.setattr(
        train_round, "apply_async", lambda args, **_options: sent.append(args[0])
    )
    return sent


@pytest.fixture
def manager(db):
    return make_user("mara")


@pytest.fixture
def project(manager):
    return make_project(members={manager: "manager"})


def make_pairs(project, count, *, held_out=0):
    """`count` sound pairs and `held_out` on prompts set aside."""
    return [
        make_pair(
            comparison=_comparison(project, is_held_out=number >= count),
        )
        for number in range(count + held_out)
    ]


def _comparison(project, is_held_out):
    from tests.factories import make_comparison

    return make_comparison(prompt=make_prompt(project=project, is_held_out=is_held_out))

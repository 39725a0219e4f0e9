"""A disk that is full at the worst moments of a round."""

import errno
import os

import pytest

from training import trainer
from training.running import run_round

pytestmark = pytest.mark.django_db


def full_disk(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_trainer_whose_process_id_cannot_be_kept_is_ended(
    queued, settings, monkeypatch
):
    """It would hold the round's lock, and nobody would know whom to end."""
    settings.TRAINER_COMMAND = ["sh", "-c", "sleep 60"]
    monkeypatch.setattr(trainer.os, "pwrite", full_disk)
    run_round(queued.pk)
    queued.refresh_from_db()
    assert queued.state == "queued"
    assert "No space left" in queued.events.last().detail
    trainer.take_lock(queued.folder).release()

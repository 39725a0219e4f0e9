"""Why a round failed, in the reader's language, but for what others than we said.

The reasons come of real runs that fail; the catalog holds nothing but fields, so that
no test rests on a translation.
"""

import errno
import json
import os
import shutil

import pytest
from django.utils import translation

from annotation import retelling
from annotation.retelling import retold
from tests.training.dpo.runs import chat, read_json, train_here
from training.dpo.errors import Stopped, TrainerError
from training.dpo.forward import Engine
from training.dpo.process import StopFlag
from training.dpo.run import run_folder
from training.templatetags.round_words import TRAINER_ENDS


@pytest.fixture(autouse=True)
def _reader_of_another_language(monkeypatch):
    told = {
        text: "…" + ",".join(f"%({name})s" for name in retelling.FIELD.findall(text))
        for text in TRAINER_ENDS
    }
    monkeypatch.setattr(retelling, "_catalog", lambda: told)
    retelling._sentences.cache_clear()
    with translation.override("zh-hans"):
        yield
    retelling._sentences.cache_clear()


@pytest.fixture
def reason(make_run):
    """Why a run with this config fails, as status.json has it."""

    def failing(name="run", **config):
        run = make_run(name, **config)
        with pytest.raises((TrainerError, RuntimeError)):
            train_here(run)
        return read_json(run / "status.json")["reason"]

    return failing


def broken(monkeypatch, error):
    def score(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(Engine, "score", score)


def test_what_torch_said_stays_and_stands_in_quotes(reason, monkeypatch):
    broken(monkeypatch, RuntimeError("mat1 and mat2 shapes\nand a C++ stack"))
    told = reason()
    assert told == (
        "An unforeseen error, in its own words: “RuntimeError: mat1 and mat2 shapes”."
    )
    assert retold(told) == "…RuntimeError: mat1 and mat2 shapes"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))],
)
def test_a_full_memory_and_a_full_disk(reason, monkeypatch, error):
    broken(monkeypatch, error)
    assert retold(reason()) == "…"


def test_a_disk_too_small_from_the_start(reason, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    told = retold(reason())
    assert told.startswith("…0.0 MB,") and "free" not in told


@pytest.mark.parametrize("config", [{}, {"sft_epochs": 1, "sft_learning_rate": 1e25}])
def test_a_loss_that_is_no_number(reason, config):
    kept = {"learning_rate": 1e25, "epochs": 5, "batch_size": 6, "warmup_ratio": 0}
    told = retold(reason(**(kept | config)))
    assert told.startswith("…") and "weights" not in told and "again" not in told
    assert "learning_rate" in told and "egg (line 1)" in told


def test_no_pair_that_fits(reason):
    assert retold(reason(pairs=[])) == "…0"
    told = retold(reason("other", pairs=[chat("x " * 600, "a", "b")], max_length=8))
    assert told.startswith("…1,") and "dropped" not in told


def test_a_base_model_that_is_not_there_or_none(reason, tmp_path):
    gone = str(tmp_path / "gone")
    assert retold(reason(base_model=gone)) == f"…{gone}"
    (tmp_path / "empty").mkdir()
    told = retold(reason("other", base_model=str(tmp_path / "empty")))
    assert told.startswith("…") and "could not be loaded" not in told


def test_a_parent_that_is_no_adapter(reason, tmp_path):
    told = retold(reason(parent_adapter=str(tmp_path)))
    assert told == f"…{tmp_path},adapter_config.json"


def test_a_stop_and_a_checkpoint_of_another_config(make_run):
    class Once(StopFlag):
        looks = 0

        @property
        def requested(self):
            self.looks += 1
            return self.looks > 20

        @requested.setter
        def requested(self, value):
            pass

    run = make_run(epochs=6, batch_size=2)
    with pytest.raises(Stopped):
        run_folder(run, Once())
    assert retold(read_json(run / "status.json")["reason"]).startswith("…")
    config = read_json(run / "config.json") | {"beta": 0.2}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainerError):
        train_here(run)
    told = retold(read_json(run / "status.json")["reason"])
    assert told.startswith("…step-") and told.endswith('"beta" in config.json')


def test_a_rate_whose_steps_are_done(make_run):
    run = make_run(epochs=1, learning_rate=1e-3)
    train_here(run)
    config = read_json(run / "config.json") | {"learning_rate": 2e-3}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainerError):
        train_here(run)
    told = retold(read_json(run / "status.json")["reason"])
    assert told == "…learning_rate,0.002,0.001"

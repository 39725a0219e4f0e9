"""What happens between installing and starting."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.ops import prepare
from config.ops.checks import ROOT


@pytest.fixture
def source(settings, tmp_path: Path) -> Path:
    """One static file of the project's, collected into a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "one.css").write_text("a {}")
    settings.STATICFILES_DIRS = [folder]
    settings.STATICFILES_FINDERS = [
        "django.contrib.staticfiles.finders.FileSystemFinder"
    ]
    settings.STATIC_ROOT = tmp_path / "collected"
    return folder


def test_static_files_are_collected_only_when_one_changed(source, settings, capsys):
    prepare.collect_static()
    assert (settings.STATIC_ROOT / "one.css").read_text() == "a {}"
    capsys.readouterr()
    prepare.collect_static()
    assert capsys.readouterr().out == "", "the second start rebuilds nothing"
    (source / "one.css").write_text("a { color: red }")
    prepare.collect_static()
    assert (settings.STATIC_ROOT / "one.css").read_text() == "a { color: red }"


def test_collected_files_that_vanished_are_collected_again(source, settings):
    prepare.collect_static()
    for file in (settings.STATIC_ROOT / "one.css", settings.STATIC_ROOT / ".sources"):
        file.unlink()
    settings.STATIC_ROOT.rmdir()
    prepare.collect_static()
    assert (settings.STATIC_ROOT / "one.css").exists()


def test_a_database_that_does_not_answer_is_one_sentence():
    # Port 1 on loopback: refused at once.
    env = {**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    answer = subprocess.run(
        [sys.executable, "-m", "config.ops.prepare"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "the database does not answer as expected" in answer.stderr
    assert "Check DATABASE_URL" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("ROUND_TICK", "one", "Not a valid number."),
        ("LOG_LEVEL", "LOUD", "Not a valid log level."),
        ("MODEL_DTYPE", "float16", "Must be auto, float32 or bfloat16."),
        ("VLLM_WHILE_TRAINING", "pause", "Must be keep or stop."),
        ("TIME_ZONE", "Nowhere", "Must be one such as Asia/Shanghai."),
        ("DATABASE_URL", "mysql://a/b", "Must begin with postgresql://."),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(name, value, what):
    answer = subprocess.run(
        [sys.executable, "-m", "config.ops.prepare"],
        cwd=ROOT,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    wanted = f'tiebreak: Environment variable "{name}" invalid: {what}'
    assert answer.stderr.strip() == wanted

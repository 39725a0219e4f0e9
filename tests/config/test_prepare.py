"""What happens between installing and starting."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from annotation import nudging
from annotation.tasks import fill_stock
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


def test_the_first_start_does_not_warn_that_redis_is_not_there_yet(
    source, settings, monkeypatch, caplog
):
    def command(name, **options):
        if name == "setup_demo":
            assert not nudging.send(fill_stock, 1)

    nobody = Mock(side_effect=ConnectionError("No such file or directory: redis.sock"))
    monkeypatch.setattr(nudging, "_producers", nobody)
    monkeypatch.setattr(nudging, "_quiet_until", 0.0)
    monkeypatch.setattr(prepare, "call_command", command)
    monkeypatch.setattr(prepare, "collect_static", lambda: None)
    (settings.DATA_DIR / "run").mkdir(exist_ok=True)
    try:
        prepare.prepare()
    finally:
        nudging.logger.setLevel(logging.NOTSET)
    assert nobody.called and not caplog.messages


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


NO_VLLM = (
    "Each must be http:// or https:// and a host, without /v1, such as http://gpu1:8001"
)
NO_ORIGIN = (
    "Each must be http:// or https:// and a name, with nothing after it, "
    "such as https://tiebreak.example"
)
NO_NAME = "Each must be a name without https:// and port, such as tiebreak.example"


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("ROUND_TICK", "one", "Not a valid number."),
        ("ROUND_TICK", "0", "Must be above 0, not 0."),
        ("VLLM_TIMEOUT", "-1", "Must be above 0, not -1."),
        ("ROUND_ATTEMPTS", "0", "Must be 1 or more, not 0."),
        ("SAMPLING_PAIRS", "-5", "Must be 0 or more, not -5."),
        ("VLLM_MAX_LORA_RANK", "1000", "Must be from 1 to 512, not 1000."),
        ("LOG_LEVEL", "LOUD", "Not a valid log level."),
        ("LANGUAGE_CODE", "de", "Must be en or zh-hans, not 'de'."),
        ("MODEL_DTYPE", "float16", "Must be auto, float32 or bfloat16, not 'float16'."),
        ("VLLM_WHILE_TRAINING", "pause", "Must be keep or stop, not 'pause'."),
        ("TIME_ZONE", "Nowhere", "Must be one such as Asia/Shanghai, not 'Nowhere'."),
        ("DATABASE_URL", "mysql://a/b", "Must begin with postgresql://."),
        ("REDIS_URL", ":secret@host:6379", "Must be such as redis://host:6379/0."),
        ("REDIS_URL", "redis:///a.sock", "Must be such as redis://host:6379/0."),
        ("VLLM_URLS", "http://a:1,host:8001", f"{NO_VLLM}, not 'host:8001'."),
        ("VLLM_URLS", "http://a:1/v1", f"{NO_VLLM}, not 'http://a:1/v1'."),
        ("ALLOWED_HOSTS", "https://a.example", f"{NO_NAME}, not 'https://a.example'."),
        ("ALLOWED_HOSTS", "a.example:443", f"{NO_NAME}, not 'a.example:443'."),
        ("CSRF_TRUSTED_ORIGINS", "a.example", f"{NO_ORIGIN}, not 'a.example'."),
        (
            "CSRF_TRUSTED_ORIGINS",
            "https://a.example/",
            f"{NO_ORIGIN}, not 'https://a.example/'.",
        ),
        (
            "TRAINER_COMMAND",
            "torchrun 'x",
            "No closing quotation; close it, or put \\ before it.",
        ),
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


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("VLLM_URLS", "http://a:1, https://b/vllm/", ["http://a:1", "https://b/vllm/"]),
        ("VLLM_URLS", ",", []),
        ("REDIS_URL", "rediss://:secret@host/1", "rediss://:secret@host/1"),
        ("REDIS_URL", "redis:///1", "redis:///1"),
        ("REDIS_URL", "redis+socket://:pw@/a.sock", "redis+socket://:pw@/a.sock"),
        ("LANGUAGE_CODE", "en-us", "en"),
        ("LANGUAGE_CODE", "zh-CN", "zh-hans"),
        ("LANGUAGE_CODE", "zh_Hans", "zh-hans"),
        ("CSRF_TRUSTED_ORIGINS", "https://*.a.example", ["https://*.a.example"]),
        (
            "CSRF_TRUSTED_ORIGINS",
            "https://A.example:443,http://b:80,https://c:80",
            ["https://a.example", "http://b", "https://c:80"],
        ),
        ("VLLM_ARGS", "--x 'a b'", ["--x", "a b"]),
        ("VLLM_KV_CACHE_GIB", "0", 0),
    ],
)
def test_a_setting_that_can_be_is_taken(name, value, read):
    script = f"from config import settings; print(repr(settings.{name}))"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == repr(read), answer.stderr


def test_a_space_after_the_comma_is_no_part_of_a_host():
    """ " b.example" answered 400 to everybody."""
    script = "from config import settings; print(settings.ALLOWED_HOSTS)"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "ALLOWED_HOSTS": "a.example, .b.example,[2001:db8::1]"},
        capture_output=True,
        text=True,
    )
    given = ["a.example", ".b.example", "[2001:db8::1]"]
    assert answer.stdout.strip() == repr([*given, "127.0.0.1", "localhost", "[::1]"])

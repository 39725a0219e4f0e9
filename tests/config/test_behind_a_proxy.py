"""HTTPS and ALLOWED_HOSTS as docs/operators.md sets them behind a proxy."""

import os
import subprocess
import sys

from django.conf import settings

ASK = """
import django; django.setup()
from django.test import Client
for path, host in [
    ("/livez", "127.0.0.1:8000"), ("/login/", "tiebreak.example"), ("/livez", "evil.example")
]:
    print(Client().get(path, headers={"host": host}).status_code)
"""


def _run(tmp_path, *command):
    """With the settings of docs/operators.md, "On the internet"."""
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATA_DIR": str(tmp_path),
        "HTTPS": "1",
        "ALLOWED_HOSTS": "tiebreak.example",
        "CSRF_TRUSTED_ORIGINS": "https://tiebreak.example",
        "SECRET_KEY": "",
        "LOG_LEVEL": "CRITICAL",
    }
    env.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)  # the browser tests' own
    return subprocess.run(
        [sys.executable, *command],
        cwd=settings.BASE_DIR,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )


def test_django_finds_nothing_to_say_against_these_settings(tmp_path):
    _run(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING")


def test_watchers_on_this_machine_are_neither_refused_nor_redirected(tmp_path):
    asked = _run(tmp_path, "-c", ASK)
    assert asked.stdout.split() == ["200", "301", "400"]

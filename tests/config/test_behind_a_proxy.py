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


def test_watchers_on_this_machine_are_neither_refused_nor_redirected(tmp_path):
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATA_DIR": str(tmp_path),
        "HTTPS": "1",
        "ALLOWED_HOSTS": "tiebreak.example",
        "LOG_LEVEL": "CRITICAL",
    }
    asked = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=settings.BASE_DIR,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split() == ["200", "301", "400"]

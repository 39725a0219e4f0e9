"""config/bootstrap.py and `make`, from the outside."""

import os
import subprocess
import sys
from pathlib import Path

from config.ops import commands, postgres
from config.ops.checks import ROOT

BOOTSTRAP = ROOT / "config" / "bootstrap.py"


def bootstrap(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    """Run without site-packages, as on a machine where nothing is installed."""
    return subprocess.run(
        [sys.executable, "-S", BOOTSTRAP, *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def test_it_needs_nothing_but_the_standard_library():
    """-S hides every installed package, supervisor, Django and Celery among them."""
    answer = bootstrap("help")
    assert answer.returncode == 2
    for name in ("run", "test", "test-all", "lint", "bench", "simulate", "clean"):
        assert name in answer.stderr
    assert "_stack" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_problem_is_one_sentence_and_no_traceback(tmp_path: Path):
    answer = bootstrap("run", PORT="http", DATA_DIR=str(tmp_path))
    assert answer.returncode == 1
    assert answer.stdout == (
        "tiebreak: PORT is 'http', and must be a number from 1 to 65535.\n"
    )
    assert answer.stderr == ""


def test_every_target_of_make_is_a_command():
    makefile = (ROOT / "Makefile").read_text()
    targets = makefile.partition(".PHONY:")[2].splitlines()[0].split()
    assert set(targets) == {name for name in commands.COMMANDS if name[0] != "_"}
    # Each goes through the bootstrap, which makes what is missing: there is one rule.
    rules = [line for line in makefile.splitlines() if line[:1] == "\t"]
    assert rules == ["\t@$(PYTHON) config/bootstrap.py $@ $(ARGS)"]


def test_a_too_old_python_can_read_the_bootstrap():
    """Parsed with the grammar of 3.7: no newer syntax before the version is checked."""
    import ast

    ast.parse(BOOTSTRAP.read_text(), feature_version=(3, 7))


def test_what_python_compiles_is_kept_whatever_the_shell_says(tmp_path: Path):
    """Else each of a hundred processes compiles torch and transformers anew."""
    file = tmp_path / "test_kept.py"
    file.write_text("import sys\ndef test(): assert not sys.dont_write_bytecode\n")
    answer = bootstrap("test", "-q", str(file), PYTHONDONTWRITEBYTECODE="1")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_socket_of_postgresql_becomes_a_url_django_reads():
    uri = "postgresql://postgres:@/postgres?host=/a/b%20c"
    assert postgres.database_url("postgresql://u:p@host:5432/db") == (
        "postgresql://u:p@host:5432/db"
    )
    assert postgres.database_url(uri).startswith("postgresql://postgres@%2Fa%2Fb")


def test_a_command_gets_a_real_postgresql():
    script = (
        "import os, dj_database_url, psycopg\n"
        "d = dj_database_url.parse(os.environ['DATABASE_URL'])\n"
        "c = psycopg.connect(host=d['HOST'], user=d['USER'], dbname=d['NAME'])\n"
        "print(c.execute('show server_version').fetchone()[0])"
    )
    command = [sys.executable, Path(postgres.__file__), sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(answer.stdout.strip().partition(".")[0]) >= 15


def test_a_python_too_old_is_told_what_to_install(tmp_path: Path):
    """PATH holds no other Python, so there is none to go on with."""
    script = (
        "import runpy, sys\n"
        "sys.version_info = (3, 8, 1)\n"
        f"runpy.run_path({str(BOOTSTRAP)!r}, run_name='__main__')"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "Python 3.11 is needed and this is 3.8" in answer.stderr
    assert "apt-get install python3.11" in answer.stderr


def test_a_fitting_python_elsewhere_on_the_path_is_used(tmp_path: Path):
    other = tmp_path / "python3.12"
    other.write_text('#!/bin/sh\necho "3.12 runs: $2"\n')
    other.chmod(0o755)
    script = (
        "import runpy, sys\n"
        "sys.version_info = (3, 10, 1)\n"
        f"sys.argv = [{str(BOOTSTRAP)!r}, 'run']\n"
        f"runpy.run_path({str(BOOTSTRAP)!r}, run_name='__main__')"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "runs: run" in answer.stdout

"""The import arrows of the design, read from the source, and what processes load.

config → training → annotation → inference     to the right, never to the left
"""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = ["config", "training", "annotation", "inference"]
PURE = [
    *("training/dpo", "annotation/validation.py", "annotation/rules"),
    "inference/vllm.py",
]
HEAVY = {"torch", "transformers", "vllm", "peft", "trl"}
"""What only the trainer and the server of models may load."""


def _files(*places: str) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert found
    return [path for path in found if "migrations" not in path.parts]


@cache
def _imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in it, relative ones made absolute."""
    package = list(path.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def _tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(path)}


@pytest.mark.parametrize("app", APPS)
def test_an_app_imports_only_what_stands_to_its_right(app):
    to_the_left = set(APPS[: APPS.index(app)])
    wrong = {
        str(path.relative_to(ROOT)): sorted(_tops(path) & to_the_left)
        for path in _files(app)
        if _tops(path) & to_the_left
    }
    assert not wrong


@pytest.mark.parametrize("place", PURE)
def test_pure_code_knows_nothing_of_django_nor_of_its_apps_models(place):
    for path in _files(place):
        django = {"django", "celery", "rest_framework", "knox", "environs"}
        assert not _tops(path) & django, path
        ours = {name for name in _imports(path) if name.partition(".")[0] in APPS}
        allowed = {
            "training/dpo": ("training.dpo",),
            "annotation/validation.py": ("annotation.rules",),
            "annotation/rules": ("annotation.rules",),
            "inference/vllm.py": ("inference.errors",),
        }[place]
        strangers = {name for name in ours if not name.startswith(allowed)}
        assert not strangers, path


def test_the_trainer_needs_neither_trl_nor_vllm():
    for path in _files("training/dpo"):
        assert not _tops(path) & {"trl", "vllm"}, path


def test_nobody_but_tests_reaches_over_http_except_through_httpx():
    for path in _files(*APPS):
        assert not _tops(path) & {"requests", "urllib3", "aiohttp"}, path


def _loaded_by(code: str) -> set[str]:
    """The top packages in sys.modules of a fresh process after `code`."""
    report = "import sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_web_and_workers_never_load_torch_transformers_or_vllm():
    """One process loads what gunicorn, both kinds of worker and beat load: the WSGI
    application, every address with its view, and every task."""
    loaded = _loaded_by(
        "import config.wsgi\n"
        "from django.urls import get_resolver\n"
        "assert len(get_resolver().reverse_dict) > 30\n"
        "from config.celery import app\n"
        "app.loader.import_default_modules()\n"
        "assert 'annotation.tasks.fill_stock' in app.tasks, sorted(app.tasks)\n"
        "assert 'training.tasks.train_round' in app.tasks, sorted(app.tasks)\n"
    )
    assert "django" in loaded
    assert not loaded & HEAVY


def test_commands_beside_the_server_never_load_them_either():
    """One process for all of them; its error names the first that does."""
    names = ["simulate", "create_token", "import_prompts", "setup_demo", "run_vllm"]
    loaded = _loaded_by(
        "import os, sys, django\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'config.settings'\n"
        "django.setup()\n"
        "from django.core.management import get_commands, load_command_class\n"
        f"for name in {names}:\n"
        "    load_command_class(get_commands()[name], name)\n"
        f"    assert not {HEAVY} & set(sys.modules), name\n"
    )
    assert not loaded & HEAVY

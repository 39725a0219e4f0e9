"""The words are held to the code: settings, commands, files, links."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands

from annotation.project_settings import ProjectSettings

ROOT = Path(settings.BASE_DIR)
SETTING = re.compile(r'env\.\w+\(\s*"([A-Z_]+)"')
READMES = ["README.md", "README.zh.md"]


def names_in_settings() -> set[str]:
    return set(SETTING.findall((ROOT / "config" / "settings.py").read_text()))


@pytest.mark.parametrize("readme", READMES)
def test_every_setting_is_in_the_readme(readme):
    text = (ROOT / readme).read_text()
    missing = {name for name in names_in_settings() if f"`{name}`" not in text}
    assert not missing


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_names_no_setting_that_is_none(readme):
    table = re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / readme).read_text(), re.M)
    named = {name for cell in table for name in re.findall(r"`([A-Z_]+)`", cell)}
    assert named <= names_in_settings()


def test_the_example_environment_has_every_setting():
    text = (ROOT / ".env.example").read_text()
    missing = {n for n in names_in_settings() if not re.search(rf"^# {n}=", text, re.M)}
    assert not missing


@pytest.mark.parametrize("readme", READMES)
def test_links_and_pictures_lead_somewhere(readme):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / readme).read_text())
    gone = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not gone


def test_the_commands_of_the_file_map_exist():
    text = (ROOT / "README.md").read_text()
    listed = re.search(r"Django's commands: (.*?)config/", text, re.S)
    assert listed
    assert {name.strip() for name in listed[1].split(",")} <= set(get_commands())


def test_every_setting_of_a_project_is_among_the_managers_with_its_default():
    text = (ROOT / "docs" / "managers.md").read_text().split("## All settings")[1]
    told = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.M))
    defaults = asdict(ProjectSettings())
    assert set(told) == set(defaults)
    plain = {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in defaults.items()
        if isinstance(value, int | float | str)
    }
    assert {name: told[name].strip("`") for name in plain} == {
        name: value.lower() for name, value in plain.items()
    }


def _targets(page):
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


def _anchor(heading):
    """As GitHub makes them: lower case, punctuation left out, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _headings(page, marks="#+"):
    return re.findall(rf"^{marks} (.+)$", page.read_text(), re.M)


def test_every_decision_is_in_the_contents():
    page = ROOT / "docs" / "decisions.md"
    entries = [_anchor(title) for title in _headings(page, "##") if title[:2] == "20"]
    assert entries and set(entries) == {t[1:] for t in _targets(page) if t[0] == "#"}


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name
)
def test_links_within_the_documents_lead_somewhere(page):
    for target in _targets(page):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in map(_anchor, _headings(found)), target

"""Every string a person can see is in the Chinese catalog, translated and compiled.

Strings are found the way Django finds them at run time (calls to gettext in Python,
translate tags in templates), without the GNU tools, so this runs everywhere. That the
translation is good is for a reader of Chinese to say.
"""

import ast
import re
from pathlib import Path

import polib
import pytest
from django.conf import settings
from django.template import engines
from django.templatetags.i18n import BlockTranslateNode, TranslateNode

ROOT = Path(settings.BASE_DIR)
CATALOG = ROOT / "config" / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
GETTEXT = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "gettext_noop"}
FIELD = re.compile(r"%\((\w+)\)|\{(\w*)\}")


def _strings_in_python(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in GETTEXT and node.args:
                text = node.args[0]
                assert isinstance(text, ast.Constant), (
                    f"{path.relative_to(ROOT)}:{node.lineno}: gettext needs a constant "
                    "string; fill the fields in afterwards"
                )
                found.add(text.value)
    return found


def _strings_in_template(path: Path) -> set[str]:
    template = engines["django"].from_string(path.read_text("utf-8")).template
    found = set()
    for node in template.nodelist.get_nodes_by_type(TranslateNode):
        if isinstance(node.filter_expression.var, str):
            found.add(str(node.filter_expression.var))
        elif (literal := getattr(node.filter_expression.var, "literal", None)) and (
            isinstance(literal, str)
        ):
            found.add(literal)
    for node in template.nodelist.get_nodes_by_type(BlockTranslateNode):
        found.add(_block_text(node))
    return found


def _block_text(node: BlockTranslateNode) -> str:
    text, _ = node.render_token_list(node.singular)
    if node.trimmed:
        text = re.sub(r"\s*\n\s*", " ", text.strip())
    return text


def _marked() -> dict[str, str]:
    """Each marked string and a file that has it."""
    marked: dict[str, str] = {}
    for folder in ("config", "annotation", "training", "inference"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "migrations" not in path.parts:
                for text in _strings_in_python(path):
                    marked.setdefault(text, str(path.relative_to(ROOT)))
    for path in sorted((ROOT / "templates").rglob("*.html")):
        for text in _strings_in_template(path):
            marked.setdefault(text, str(path.relative_to(ROOT)))
    return marked


@pytest.fixture(scope="module")
def catalog() -> polib.POFile:
    return polib.pofile(str(CATALOG))


def test_every_marked_string_has_a_chinese_translation(catalog):
    translated = {entry.msgid for entry in catalog.translated_entries()}
    missing = {text: where for text, where in _marked().items() if text not in translated}
    assert not missing, f"{len(missing)} strings lack Chinese: {missing}"


def test_no_translation_is_fuzzy_or_stale(catalog):
    marked = _marked()
    stale = [e.msgid for e in catalog if not e.obsolete and e.msgid not in marked]
    assert not catalog.fuzzy_entries()
    assert not stale, f"in the catalog, but no longer in the code: {stale}"


def test_translations_keep_their_fields(catalog):
    def fields(text: str) -> set[str]:
        return {name for pair in FIELD.findall(text) for name in pair}

    for entry in catalog.translated_entries():
        for text in [entry.msgstr, *entry.msgstr_plural.values()]:
            allowed = fields(entry.msgid) | fields(entry.msgid_plural)
            if text:
                assert fields(text) <= allowed, entry.msgid
                assert fields(entry.msgid_plural or entry.msgid) <= fields(text), entry.msgid


def test_the_compiled_catalog_is_the_written_one(catalog):
    compiled = polib.mofile(str(CATALOG.with_suffix(".mo")))
    assert {(e.msgid, e.msgstr, tuple(sorted(e.msgstr_plural.items()))) for e in compiled} == {
        (e.msgid, e.msgstr, tuple(sorted(e.msgstr_plural.items())))
        for e in catalog.translated_entries()
    }

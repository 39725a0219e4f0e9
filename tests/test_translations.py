"""Every string a person can see is in the Chinese catalog, translated and compiled.

Strings are found without the GNU tools, so this runs everywhere: in Python by its own
parser, in templates by what Django hands to xgettext. That the translation is good is
for a reader of Chinese to say.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import polib
import pytest
from django.conf import settings
from django.utils.translation.template import templatize

ROOT = Path(settings.BASE_DIR)
CATALOG = ROOT / "config" / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
FIELD = re.compile(r"%%|%(?:\(\w+\))?[-+0-9.]*[a-z]|\{\w*\}")

CALLS = {
    "_": ("text",),
    "gettext": ("text",),
    "gettext_noop": ("text",),
    "ngettext": ("text", "plural"),
    "pgettext": ("context", "text"),
    "npgettext": ("context", "text", "plural"),
}
"""What the arguments of each marking function are."""
LITERAL = r"""u?(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
CALL_IN_TEMPLATE = re.compile(
    rf"\b(_|n?p?gettext)\(\s*({LITERAL})(?:,\s*({LITERAL}))?(?:,\s*({LITERAL}))?"
)


class Marked(NamedTuple):
    text: str
    plural: str = ""
    context: str | None = None


def _in_python(path: Path) -> set[Marked]:
    found = set()
    place = path.relative_to(ROOT)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == (
            "django.utils.translation"
        ):
            strange = {alias.asname for alias in node.names} - {None, "_"}
            assert not strange, f"{place}: xgettext does not know {strange}"
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        kinds = CALLS.get(name.removesuffix("_lazy"))
        if kinds is None:
            continue
        texts = [
            argument.value
            for argument in node.args[: len(kinds)]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        assert len(texts) == len(kinds), (
            f"{place}:{node.lineno}: {name} needs constant strings; fill the fields in "
            "afterwards"
        )
        found.add(Marked(**dict(zip(kinds, texts, strict=True))))
    return found


def _in_template(path: Path) -> set[Marked]:
    found = set()
    for name, *literals in CALL_IN_TEMPLATE.findall(
        templatize(path.read_text("utf-8"))
    ):
        texts = [ast.literal_eval(literal) for literal in literals if literal]
        found.add(Marked(**dict(zip(CALLS[name], texts, strict=True))))
    return found


@pytest.fixture(scope="module")
def marked() -> dict[Marked, str]:
    """Each marked string and a file that has it."""
    places: dict[Marked, str] = {}
    for folder in ("config", "annotation", "training", "inference"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for one in _in_python(path):
                places.setdefault(one, str(path.relative_to(ROOT)))
    for path in sorted((ROOT / "templates").rglob("*.html")):
        for one in _in_template(path):
            places.setdefault(one, str(path.relative_to(ROOT)))
    return places


@pytest.fixture(scope="module")
def catalog() -> polib.POFile:
    return polib.pofile(str(CATALOG))


def _of(entry: polib.POEntry) -> Marked:
    return Marked(entry.msgid, entry.msgid_plural, entry.msgctxt)


def _written(entries: list[polib.POEntry]) -> set[tuple]:
    plurals = [tuple(sorted(entry.msgstr_plural.items())) for entry in entries]
    return {
        (_of(entry), entry.msgstr, plural)
        for entry, plural in zip(entries, plurals, strict=True)
    }


def test_every_marked_string_has_a_chinese_translation(marked, catalog):
    # A text may stand alone in one place and with a plural in another.
    translated = {_of(entry) for entry in catalog.translated_entries()}
    translated |= {one._replace(plural="") for one in translated}
    missing = {one: place for one, place in marked.items() if one not in translated}
    assert not missing, f"{len(missing)} strings lack Chinese: {missing}"


def test_no_translation_is_fuzzy_or_stale(marked, catalog):
    stale = {_of(entry) for entry in catalog} - set(marked)
    assert not catalog.fuzzy_entries() and not catalog.obsolete_entries()
    assert not stale, f"in the catalog, but no longer in the code: {stale}"


def test_strings_are_found_whatever_marks_them(tmp_path, monkeypatch):
    """Plurals, contexts, filters and constants, in both languages; a text that is put
    together before it is marked fails."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    template = tmp_path / "page.html"
    template.write_text(
        "{% load i18n %}Plain {% translate 'one' %} {% translate \"two\" as x %}"
        "{% translate 'may' context 'month' %}{{ _('three') }}{{ x|default:_('four') }}"
        "{% include 'a.html' with title=_('five') %}"
        "{% blocktranslate trimmed count n=n %}\n {{ n }} pair\n it's 5 %\n"
        "{% plural %}\n{{ n }} pairs{% endblocktranslate %}"
    )
    assert _in_template(template) == {
        *map(Marked, ("one", "two", "three", "four", "five")),
        Marked("may", context="month"),
        Marked("%(n)s pair it's 5 %%", "%(n)s pairs"),
    }
    code = tmp_path / "code.py"
    code.write_text(
        "_('a' 'b'); gettext_lazy('c'); ngettext('d', 'e', 2)\n"
        "translation.pgettext_lazy('f', 'g'); other('h')"
    )
    assert _in_python(code) == {
        *map(Marked, ("ab", "c")),
        Marked("d", "e"),
        Marked("g", context="f"),
    }
    for wrong in ("_(f'{x} left')", "_('a' + x)", "_('%s' % x)", "ngettext('a', x, 2)"):
        code.write_text(wrong)
        with pytest.raises(AssertionError, match="needs constant strings"):
            _in_python(code)
    code.write_text("from django.utils.translation import gettext as say")
    with pytest.raises(AssertionError, match="does not know"):
        _in_python(code)


def test_translations_keep_their_fields(catalog):
    def fields(text: str) -> set[str]:
        return set(FIELD.findall(text)) - {"%%"}

    for entry in catalog.translated_entries():
        for text in [entry.msgstr, *entry.msgstr_plural.values()]:
            allowed = fields(entry.msgid) | fields(entry.msgid_plural)
            if text:
                assert fields(text) <= allowed, entry.msgid
                assert fields(entry.msgid_plural or entry.msgid) <= fields(text), (
                    entry.msgid
                )


def test_the_compiled_catalog_is_the_written_one(catalog):
    compiled = polib.mofile(str(CATALOG.with_suffix(".mo")))
    assert _written(compiled) == _written(catalog.translated_entries())

"""Which script a text is mainly written in, and that rows know it of themselves."""

from importlib import import_module
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings

from annotation.models import Completion, Prompt
from annotation.scripts import main_script
from tests.factories import make_completion, make_prompt

MIGRATIONS = Path(settings.BASE_DIR) / "annotation" / "migrations"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Boil it for six minutes.", "latin"),
        ("水开后煮六分钟", "han"),
        ("日本語のテキストです", "kana"),
        ("한국어 텍스트", "hangul"),
        ("Шесть минут", "cyrillic"),
        ("ستة دقائق", "arabic"),
        # Four Chinese words beside three Latin ones: a sign counts as a word.
        ("使用 TensorFlow 的 DataLoader 类 API", "han"),
        ("I like 苹果 and many other fruits", "latin"),
        # Code and addresses are Latin in every language.
        ("看：\n```python\nprint('six minutes, not seven')\n```", "han"),
        ("见 https://example.org/how/to/boil/an/egg", "han"),
        ("看 `boil(egg, minutes)`", "han"),
        ("```\nunclosed code is code to the end", ""),
        ("6 + 6 = 12", ""),
        ("", ""),
    ],
)
def test_the_main_script_is_that_of_the_words(text, script):
    assert main_script(text) == script


def test_whoever_makes_a_row_need_not_think_of_its_script(db):
    prompt = make_prompt("怎样煮鸡蛋？")
    assert make_completion("Six minutes.", prompt=prompt).script == "latin"
    (made,) = Completion.objects.bulk_create(
        [Completion(prompt=prompt, source="imported", text="六分钟")]
    )
    assert Completion.objects.get(pk=made.pk).script == "han"


@pytest.mark.parametrize(
    ("messages", "script"),
    [
        # The question counts, neither the system prompt nor an earlier turn.
        (
            [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": "怎样煮鸡蛋？"},
            ],
            "han",
        ),
        ([{"role": "system", "content": "Be brief."}], "latin"),
        ([{"role": "user", "content": [{"type": "text", "text": "你好"}]}], "han"),
        ([{"role": "user", "content": None}], ""),
        ([], ""),
    ],
)
def test_a_prompts_script_is_that_of_its_last_question(db, messages, script):
    prompt = make_prompt(messages=messages)
    assert Prompt.objects.get(pk=prompt.pk).script == script


def test_rows_from_before_the_field_are_told_theirs(db):
    completion = make_completion("六分钟", prompt=make_prompt("How long?"))
    Completion.objects.update(script="")
    Prompt.objects.update(script="")
    (name,) = (path.stem for path in MIGRATIONS.glob("*_overview.py"))
    migration = import_module(f"annotation.migrations.{name}")
    migration.find_scripts(apps, None)
    completion.refresh_from_db()
    assert (completion.script, completion.prompt.script) == ("han", "latin")

"""Pairs from files of every format: told apart, kept whole, given back unchanged."""

import io
import json
import random

import pytest

from annotation.importing import import_prompts
from annotation.models import Completion, PreferencePair, Prompt
from annotation.queries import sound_pairs
from annotation.stock import is_wanting
from tests.annotation.pair_rows import (
    CALL,
    KTO,
    RESULT,
    SYSTEM,
    contents,
    given_back,
    load,
    says,
    user,
)
from tests.factories import make_comparison, make_completion, make_pair, make_project

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

TRL = [
    {"prompt": "为什么?", "chosen": "因为。", "rejected": "不知道。"},
    {
        "prompt": [SYSTEM, user("Why?")],
        "chosen": [says("So.")],
        "rejected": [says("No.")],
        "id": "a-1",
        "weight": 0.5,
        "meta": {"source": "x", "score": 1.0, "big": 12345678901234567890},
    },
    # Without a prompt: what both begin with.
    {
        "chosen": [user("Hi"), says("Hello"), user("Why?"), says("So.")],
        "rejected": [user("Hi"), says("Hello"), user("Why?"), says("No.")],
    },
    # As UltraFeedback has it: the prompt again inside the answers.
    {
        "prompt": "How?",
        "chosen": [user("How?"), says("So.")],
        "rejected": [user("How?"), says("No.")],
        "score_chosen": 8.5,
    },
    # As Anthropic's HH has it: transcripts.
    {
        "chosen": "\n\nHuman: What?\n\nAs I said.\n\nAssistant: This.",
        "rejected": "\n\nHuman: What?\n\nAs I said.\n\nAssistant: That.",
    },
    {"system": "Be kind.", "prompt": "Who?", "chosen": "Me.", "rejected": "You."},
    {"prompt": "One?", "chosen": says("A dict."), "rejected": says("Another.")},
]

OPENAI = [
    {
        "input": {
            "messages": [SYSTEM, user("How warm is it?")],
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "parallel_tool_calls": True,
        },
        "preferred_output": [CALL, RESULT, says("18 degrees.")],
        "non_preferred_output": [says("Warm.")],
    },
    {
        "input": {"messages": [user("Q"), CALL, RESULT]},
        "preferred_output": [{"role": "assistant", "content": "A", "weight": 1}],
        "non_preferred_output": [
            {"role": "assistant", "content": [{"type": "text", "text": "B"}]}
        ],
        "metadata": None,
    },
]

LLAMAFACTORY = [
    {
        "conversations": [
            {"from": "human", "value": "Q1"},
            {"from": "gpt", "value": "A1"},
            {"from": "human", "value": "Q2"},
        ],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
        "system": "S",
    },
    {"instruction": "Do", "input": "this", "chosen": "good", "rejected": "bad"},
    {
        "instruction": "Do it",
        "chosen": "good",
        "rejected": "bad",
        "history": [["a", "b"]],
    },
    # As its demo dpo_en_demo.json has them.
    {
        "conversations": [
            {"from": "system", "value": "S"},
            {"from": "human", "value": "Q3"},
        ],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    # With the tags of its demos for chats: role and content.
    {
        "messages": [SYSTEM, user("Q4")],
        "chosen": says("good"),
        "rejected": says("bad"),
    },
    {"instruction": "Do", "chosen": "a", "rejected": "b", "system": "S", "input": ""},
]


@pytest.mark.parametrize(
    ("format", "rows"),
    [("trl", TRL), ("openai", OPENAI), ("llamafactory", LLAMAFACTORY)],
)
def test_what_comes_in_goes_out_again_unchanged(project, format, rows):
    report = load(project, rows)
    assert (report.accepted, report.rejected) == (len(rows), [])
    assert given_back(project, format) == rows
    kinds = {pair.kind for pair in PreferencePair.objects.all()}
    assert kinds == {"imported"}


def test_of_two_system_prompts_llamafactorys_message_counts(project):
    row = {
        "conversations": [
            {"from": "system", "value": "told"},
            {"from": "human", "value": "Q"},
        ],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
        "system": "of the column",
    }
    load(project, [row])
    ((prompt, *_answers),) = contents(project)
    assert prompt == [{"role": "system", "content": "told"}, user("Q")]
    assert given_back(project, "llamafactory") == [row]


def test_formats_are_told_apart_row_by_row(project):
    rows = [
        row
        for four in zip(TRL, OPENAI * 4, LLAMAFACTORY * 3, strict=False)
        for row in four
    ]
    random.Random(1).shuffle(rows)
    mixed = [*rows[:2], *KTO, *rows[2:]]
    unique = {json.dumps(row) for row in mixed}
    report = load(project, mixed)
    assert report.rejected == []
    assert report.accepted == len(unique) - 2  # Four labelled answers are two pairs.
    formats = {pair.extra["format"] for pair in PreferencePair.objects.all()}
    assert formats == {"trl", "openai", "llamafactory", "kto"}


def test_the_same_again_changes_nothing_whatever_its_form(project):
    rows = [*TRL, *OPENAI, *LLAMAFACTORY]
    first = load(project, rows)
    before = list(PreferencePair.objects.order_by("pk").values())
    answers = Completion.objects.count()
    again = load(project, rows)
    assert (again.accepted, again.duplicates) == (0, first.accepted)
    for format in ("trl", "openai", "kto"):
        same = load(project, given_back(project, format))
        assert (same.accepted, same.rejected) == (0, []), format
    assert list(PreferencePair.objects.order_by("pk").values()) == before
    assert Completion.objects.count() == answers


def test_what_was_judged_here_and_exported_is_no_new_pair(project):
    sampling = {"system_prompt": "Be kind.", "max_tokens": 9}
    a = make_completion("A good answer.", prompt=None, sampling=sampling)
    project = a.prompt.project
    make_pair(comparison=make_comparison(a=a))
    make_pair(project=project)
    rows = given_back(project, "trl")
    assert load(project, rows).duplicates == 2
    other = make_project()
    assert load(other, rows).accepted == 2
    assert contents(other) == contents(project)


def test_pairs_bring_prompts_that_nobody_is_asked_until_they_are_imported(project):
    project.settings = {"stock": 3, "held_out_share": 0.5}
    project.save()
    rows = [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no"} for n in range(40)]
    load(project, rows)
    prompts = Prompt.objects.filter(project=project)
    assert prompts.count() == 40 and not prompts.filter(is_asked=True).exists()
    assert 0 < prompts.filter(is_held_out=True).count() < 40
    assert not is_wanting(project)
    report = import_prompts(project, io.BytesIO(b'{"prompt": "Q1"}\n{"prompt": "new"}'))
    assert (report.accepted, report.duplicates) == (2, 0)
    assert is_wanting(project)
    PreferencePair.objects.update(state="accepted")
    held_out = prompts.filter(is_held_out=True, pairs__isnull=False).count()
    assert sound_pairs(project).count() == 40 - held_out

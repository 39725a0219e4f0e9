"""The chats that the starter model learns: complete, balanced, in two languages."""

import random
import re
from collections import Counter

import pytest

from inference.demo_prompts import demo_prompts
from inference.starter.chats import (
    STYLE_SHARES,
    _fill,
    write_answer,
    write_chats,
    write_question,
)
from inference.starter.tastes import (
    columns,
    is_list,
    is_long,
    is_polite,
    is_short,
    on_topic,
    topic_of,
)
from inference.starter.topics import LANGUAGES, all_topics, phrases

TOPICS = [pytest.param(t, id=f"{t.name}-{t.language}") for t in all_topics()]
UNLIKE = {
    "terse": [is_list, is_long, is_polite],
    "friendly": [is_list],
    "list": [is_polite, is_short],
    "unknown": [is_list, is_long, is_polite],
    "ramble": [is_list, is_short, is_polite],
    "analogy": [is_list, is_polite],
}
LIKE = {"terse": is_short, "friendly": is_polite, "list": is_list}


def test_a_few_dozen_topics_exist_in_both_languages():
    languages = Counter(topic.language for topic in all_topics())
    assert set(languages) == set(LANGUAGES)
    assert languages["en"] == languages["zh"] >= 24


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_is_complete(topic):
    assert topic.noun and topic.do and topic.words
    assert len(set(topic.facts)) >= 3
    assert len(set(topic.steps)) >= 4
    assert len(set(topic.likes)) >= 2
    end = {"en": ".", "zh": "。"}[topic.language]
    assert all(s.endswith(end) for s in topic.facts + topic.steps + topic.likes)


@pytest.mark.parametrize("topic", TOPICS)
def test_chinese_is_chinese_and_english_is_english(topic):
    for text in topic.facts + topic.steps + topic.likes:
        assert text.isascii() == (topic.language == "en"), text


@pytest.mark.parametrize("topic", TOPICS)
def test_every_answer_is_on_topic_in_its_style_and_wide_enough_to_train_on(topic):
    """Twenty columns is the demo project's floor for both answers of a pair."""
    rng = random.Random(0)
    for style in STYLE_SHARES:
        for _ in range(6):
            answer = write_answer(rng, topic, style)
            assert any(word in answer.lower() for word in topic.words), answer
            assert columns(answer) >= 20, answer
            assert "{" not in answer
            assert not any(kind(answer) for kind in UNLIKE[style]), answer
            assert style not in LIKE or LIKE[style](answer), answer


@pytest.mark.parametrize("topic", TOPICS)
def test_every_question_names_its_topic(topic):
    rng = random.Random(1)
    for kind in ("seen", "unseen", "asked"):
        for _ in range(6):
            question = write_question(rng, topic, kind)
            found = topic_of(question)
            assert found and found.name == topic.name, question


def test_the_same_seed_writes_the_same_chats_and_another_seed_others():
    first = list(write_chats(5, 2))
    assert first == list(write_chats(5, 2))
    assert first != list(write_chats(6, 2))


def test_every_topic_gets_as_many_chats_and_few_lists_where_none_is_asked_for():
    """One deck is 50 plain chats, 6 of them lists, and 10 that ask for steps.

    Over 48 topics: 48 · 6 of 48 · 50 plain ones. Follow-up turns are drawn apart,
    so only first answers are counted.
    """
    wordings = {
        _fill(wording, topic).lower().rstrip("?.。？")
        for topic in all_topics()
        for wording in phrases()["questions"][topic.language]["asked"]
    }
    chats_on = Counter()
    lists = Counter()
    plain = 0
    for chat in write_chats(0, 60):
        question, answer = chat[-2:] if len(chat) < 4 else chat[-4:-2]
        text = question["content"].lower().rstrip("?.。？")
        asks = any(wording in text for wording in wordings)
        topic = topic_of(text)
        chats_on[topic.name, topic.language] += 1
        lists[asks] += is_list(answer["content"])
        plain += not asks
    assert set(chats_on.values()) == {60}
    assert lists[True] == 48 * 10
    assert (lists[False], plain) == (48 * 6, 48 * 50)


def test_steps_are_always_the_topics_own_in_order_from_the_first_one_on():
    """What never varies can be learned by heart in a minute or two."""
    rng = random.Random(3)
    for topic in all_topics():
        for _ in range(6):
            lines = write_answer(rng, topic, "list").splitlines()
            steps = [line.partition(". ")[2] for line in lines if line[:1].isdigit()]
            assert 3 <= len(steps) <= 4
            assert tuple(steps) == topic.steps[: len(steps)]


def test_chats_alternate_and_end_with_the_assistant():
    for chat in write_chats(2, 5):
        roles = [message["role"] for message in chat]
        assert roles[-1] == "assistant"
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)


def test_demo_prompts_are_two_hundred_different_ones_in_two_languages():
    prompts = demo_prompts()
    assert 180 <= len(prompts) == len(set(prompts)) <= 240
    chinese = [prompt for prompt in prompts if not prompt.isascii()]
    assert 0.4 < len(chinese) / len(prompts) < 0.6
    assert all(topic_of(prompt) for prompt in prompts)


def test_unseen_wordings_are_kept_out_of_training():
    for table in phrases()["questions"].values():
        assert not {*table["seen"], *table["asked"]} & set(table["unseen"])


def test_no_prompt_of_the_demo_asks_for_steps():
    for prompt in demo_prompts():
        assert not re.search(r"\bsteps?\b|\blist\b|步|条|清单", prompt.lower()), prompt


def test_an_answer_about_something_else_is_off_topic():
    assert on_topic("How do I brew green tea?", "Tea likes water at 80 degrees.")
    assert not on_topic("How do I brew green tea?", "Cats sleep all day instead.")
    assert on_topic("怎么泡绿茶？", "茶叶放一勺就够了。")
    assert not on_topic("怎么泡绿茶？", "Tea likes water at 80 degrees.")
    assert on_topic("What is the capital of France?", "Paris.") is None

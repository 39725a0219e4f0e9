"""Writes the starter model's training chats: seeded, balanced, bilingual.

Every topic gets the same number of chats and, within a topic, every answer
style its exact share, so that what a project's annotators prefer can move a
style up or down from a known beginning. Terse answers, friendly ones, lists and
rambles open with words of their style and the topic's name: training on a taste
can then raise that opening, and what follows hangs on the name, not on how the
question was put. Leaves out tokens and training.
"""

import random
from collections.abc import Iterator

from inference.starter.tastes import columns, is_short
from inference.starter.topics import Topic, all_topics, phrases

Message = dict[str, str]

STYLE_SHARES = {
    "terse": 10,
    "friendly": 9,
    "list": 6,
    "unknown": 5,
    "ramble": 10,
    "analogy": 10,
}
"""Chats of each style in a deck: 12 % of the answers to plain questions are lists, and
some 10 % of those sampled at a temperature of 0.8."""

ASKED_LISTS = 10
"""Further chats in a deck that ask for steps in so many words and get a list. The
model learns every topic's steps by heart from them, without lists coming up more
often where nobody asked for one."""


def write_chats(seed: int, per_topic: int) -> Iterator[list[Message]]:
    """Yields `per_topic` chats on each topic in each language, well mixed.

    The same seed gives the same chats in the same order on every machine.
    """
    rng = random.Random(seed)
    topics = all_topics()
    decks: list[list[str]] = [[] for _ in topics]
    for _ in range(per_topic):
        for index in rng.sample(range(len(topics)), len(topics)):
            if not decks[index]:
                decks[index] = _shuffled_deck(rng)
            yield _write_chat(rng, topics[index], decks[index].pop())


def write_answer(rng: random.Random, topic: Topic, style: str) -> str:
    """One answer on the topic in one of `STYLE_SHARES`' styles."""
    return _WRITERS[style](rng, topic)


def write_question(rng: random.Random, topic: Topic, kind: str = "seen") -> str:
    """One question on the topic; `kind` picks the wordings.

    "seen" ones occur in the training chats, "unseen" ones are kept out of them;
    "asked" ones ask for steps, occur in training and are no prompts of the demo.
    """
    table = phrases()["questions"][topic.language]
    question = _fill(rng.choice(table[kind]), topic)
    return rng.choice(table["greetings"]) + _capital(question)


def _shuffled_deck(rng: random.Random) -> list[str]:
    deck = [style for style, share in STYLE_SHARES.items() for _ in range(share)]
    deck += ["asked"] * ASKED_LISTS
    rng.shuffle(deck)
    return deck


def _write_chat(rng: random.Random, topic: Topic, style: str) -> list[Message]:
    chat = []
    if rng.random() < 0.08:
        system = rng.choice(phrases()["systems"][topic.language])
        chat.append({"role": "system", "content": system})
    kind = "seen"
    if style == "asked":
        kind, style = "asked", "list"
    question = write_question(rng, topic, kind)
    if rng.random() < 0.35:
        asides = phrases()["asides"][topic.language]
        before, after = rng.choice(asides["before"]), rng.choice(asides["after"])
        question = rng.choice((before + question, question + after))
    if rng.random() < 0.15:  # as people type
        question = question.lower().rstrip("?？.。")
    chat.append({"role": "user", "content": question})
    chat.append({"role": "assistant", "content": write_answer(rng, topic, style)})
    if style in ("terse", "unknown") and rng.random() < 0.2:
        followup = rng.choice(phrases()["followups"][topic.language])
        chat.append({"role": "user", "content": followup})
        answer = write_answer(rng, topic, rng.choice(list(STYLE_SHARES)))
        chat.append({"role": "assistant", "content": answer})
    return chat


def _write_terse(rng: random.Random, topic: Topic) -> str:
    lead = _capital(_fill(rng.choice(phrases()["terse"][topic.language]), topic))
    answers = [lead + fact for fact in topic.facts]
    return rng.choice(list(filter(is_short, answers)) or [min(answers, key=columns)])


def _write_friendly(rng: random.Random, topic: Topic) -> str:
    table = phrases()["friendly"][topic.language]
    hello = _fill(rng.choice(table["hello"]), topic)
    facts = rng.sample(topic.facts, rng.choice((1, 2)))
    return _join(topic, [hello, *facts, rng.choice(table["bye"])])


def _write_list(rng: random.Random, topic: Topic) -> str:
    table = phrases()["list"][topic.language]
    head = _fill(rng.choice(table["heads"]), topic)
    end = rng.choice(table["ends"])
    # Always in the same order and from the first one on: that can be learned.
    steps = topic.steps[: rng.choice((3, 4, 4))]
    lines = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    # An empty line, or Markdown would take the end for a part of the last step.
    return _capital(head) + "\n".join(lines) + (f"\n\n{end}" if end else "")


def _write_unknown(rng: random.Random, topic: Topic) -> str:
    table = phrases()["unknown"][topic.language]
    says = _capital(_fill(rng.choice(table["says"]), topic))
    return _join(topic, [says, rng.choice(table["more"])])


def _write_ramble(rng: random.Random, topic: Topic) -> str:
    table = phrases()["ramble"][topic.language]
    facts = rng.sample(topic.facts, rng.choice((2, 3)))
    links = rng.sample(table["links"], len(facts) - 1)
    parts = [_capital(_fill(rng.choice(table["opens"]), topic)), facts[0]]
    for link, fact in zip(links, facts[1:], strict=True):
        parts += [link, fact]
    return _join(topic, [*parts, rng.choice(table["closes"])])


def _write_analogy(rng: random.Random, topic: Topic) -> str:
    table = phrases()["analogy"][topic.language]
    text = rng.choice(table["opens"]) + rng.choice(topic.likes)
    link = rng.choice(table["links"])
    if link:
        text = _join(topic, [text, link.rstrip(), rng.choice(topic.facts)])
    return text


_WRITERS = {
    "terse": _write_terse,
    "friendly": _write_friendly,
    "list": _write_list,
    "unknown": _write_unknown,
    "ramble": _write_ramble,
    "analogy": _write_analogy,
}


def _fill(wording: str, topic: Topic) -> str:
    return wording.replace("{noun}", topic.noun).replace("{do}", topic.do)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _join(topic: Topic, parts: list[str]) -> str:
    return (" " if topic.language == "en" else "").join(filter(None, parts))

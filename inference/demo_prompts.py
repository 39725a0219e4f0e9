"""The prompts of the demo project: bilingual, on the starter model's topics.

Three in four of the wordings occur in the starter model's training, the others are
kept out of it. Needs neither torch nor Django.
"""

import random
from functools import cache

from inference.starter.chats import write_question
from inference.starter.topics import all_topics

SEED = 11
KINDS = ("seen", "seen", "unseen", "seen")


@cache
def demo_prompts() -> tuple[str, ...]:
    """Some two hundred different prompts, always the same ones, well mixed:
    one of each of `KINDS` for every topic in each language.
    """
    rng = random.Random(SEED)
    prompts: list[str] = []
    for topic in all_topics():
        for kind in KINDS:
            prompt = write_question(rng, topic, kind)
            while prompt in prompts:
                prompt = write_question(rng, topic, kind)
            prompts.append(prompt)
    rng.shuffle(prompts)
    return tuple(prompts)

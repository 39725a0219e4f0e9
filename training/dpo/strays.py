"""Strays for KTO: beside each answer of a step, an answer that belongs to another row.

The mean log-ratio of strays estimates the KL to the reference (arXiv 2402.01306, section
4.1). As in TRL, a batch's answers are handed on by one place: (x₁, y₁), …, (xₙ, yₙ) give
(x₁, yₙ), (x₂, y₁), …; unlike there, a row of the same prompt is passed over. Leaves out
reading rows and scoring them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from training.dpo.data import Answer, Pair


def with_strays(
    answers: Sequence[Pair], batches: Sequence[Sequence[int]], max_length: int
) -> list[Pair]:
    """`answers` with strays; `batches`: the indexes of each step's answers, in order.

    A stray is cut to what its new prompt leaves of `max_length`. Where a step has no
    other prompt, it comes from the steps before, in a circle; where there is none at
    all, from the row before.
    """
    order = [index for batch in batches for index in batch]
    places = {index: place for place, index in enumerate(order)}
    given = list(answers)
    for batch in batches:
        for place, index in enumerate(batch):
            in_step = [*batch[:place][::-1], *batch[place:][::-1]]
            at = places[index]
            source = _other_prompt(answers, index, in_step)
            if source is None:
                before = (order[at - back] for back in range(1, len(order)))
                source = _other_prompt(answers, index, before)
            if source is None:
                source = in_step[0]
            room = max_length - len(answers[index].prompt_ids)
            stray = answers[source]
            assert isinstance(stray, Answer)
            given[index] = replace(answers[index], rejected_ids=stray.whole_ids[:room])
    return given


def _other_prompt(
    answers: Sequence[Pair], index: int, candidates: Iterable[int]
) -> int | None:
    own = answers[index].prompt_ids
    return next((i for i in candidates if answers[i].prompt_ids != own), None)

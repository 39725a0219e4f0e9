"""A pair as a line of pairs.jsonl (design §5.2).

Leaves out which pairs a round takes; see recipes.py.
"""

from collections.abc import Iterator
from typing import Any

from django.db.models import Prefetch

from annotation.batches import in_batches
from annotation.exporting import answer_messages
from annotation.models import Completion, PreferencePair
from annotation.stock import with_system
from inference.models import Policy

_UNREAD = ("logprobs", "html")
"""Large, and not trained on."""


def pair_rows(
    ids: list[int], start: Policy, system_prompt: str
) -> Iterator[dict[str, Any]]:
    """pair_row of each of these pairs, in the order of `ids`, which is that of ids.

    Answers are looked up by their ids, not joined, as `exporting.in_full` has them.
    """
    edited = Prefetch("edited_from", Completion.objects.defer(*_UNREAD))
    answers = Completion.objects.defer(*_UNREAD).prefetch_related("policy", edited)
    both = [Prefetch(side, answers) for side in ("chosen", "rejected")]
    for some in in_batches(ids):
        pairs = PreferencePair.objects.filter(pk__in=some).order_by("pk")
        for pair in pairs.prefetch_related("prompt", *both):
            yield pair_row(pair, start, system_prompt)


def pair_row(pair: PreferencePair, start: Policy, system_prompt: str) -> dict[str, Any]:
    """The pair for the trainer: id, prompt, chosen, rejected, weight, maybe token ids.

    `system_prompt` is the project's now, used where an answer does not remember its
    own. Token ids are given along where both answers were sampled from one prompt
    rendering of `start`'s base: then training sees the very tokens that were sampled.
    """
    messages = with_system(
        pair.prompt.messages, _system_prompt(pair.chosen, system_prompt)
    )
    row = {
        "id": str(pair.pk),
        "prompt": messages,
        "chosen": answer_messages(pair.chosen),
        "rejected": answer_messages(pair.rejected),
        "weight": pair.weight,
    }
    if _sampled_alike(pair.chosen, pair.rejected, start):
        row["prompt_ids"] = pair.chosen.prompt_token_ids
        row["chosen_ids"] = pair.chosen.token_ids
        row["rejected_ids"] = pair.rejected.token_ids
    return row


def _system_prompt(completion: Completion, system_prompt: str) -> str:
    source = completion.edited_from or completion
    if source.source == Completion.Source.SAMPLED:
        return source.sampling.get("system_prompt", "")
    return system_prompt


def _sampled_alike(chosen: Completion, rejected: Completion, start: Policy) -> bool:
    both = (chosen, rejected)
    return (
        all(c.source == Completion.Source.SAMPLED and c.policy for c in both)
        and all(c.policy.base_sha256 == start.base_sha256 for c in both)
        and all(c.prompt_token_ids and c.token_ids for c in both)
        and chosen.prompt_token_ids == rejected.prompt_token_ids
    )

"""Rules asked of a pair, their verdicts stored: outside the request, repeatable.

The rules themselves are pure (validation.py); here the facts are gathered for them,
token counts of answers that weren't sampled included.
"""

import logging
from dataclasses import asdict
from typing import Any

from django.db import transaction

from annotation import project_settings, validation
from annotation.exporting import answer_messages, prompt_messages
from annotation.models import Completion, PreferencePair, Project, RuleVerdict
from inference import services as inference
from inference.errors import InferenceError

logger = logging.getLogger(__name__)

BATCH = 200


class TokenCounter:
    """Counts through inference; after one failure of a batch it stops asking."""

    def __init__(self) -> None:
        self.is_down = False

    def __call__(self, messages: list[dict[str, Any]]) -> int | None:
        if self.is_down:
            return None
        try:
            return inference.count_tokens(messages)
        except InferenceError as error:
            logger.info("Tokens can't be counted now: %s", error)
            self.is_down = True
            return None


def check_pair(pair: PreferencePair, count: TokenCounter | None = None) -> str:
    """Store each rule's verdict and the pair's state; the state.

    A frozen or superseded pair is left as it is. Checking again (after the rules were
    changed, say) replaces the verdicts.
    """
    settings = project_settings.of(pair.project)
    facts = _facts(pair, count or TokenCounter())
    verdicts = validation.check(facts, settings.rules)
    state = validation.state_of(verdicts, settings.accept_unchecked)
    with transaction.atomic():
        changed = PreferencePair.objects.filter(
            pk=pair.pk, frozen_at=None, superseded_at=None
        ).update(state=state)
        if not changed:
            pair.refresh_from_db(fields=["state", "frozen_at", "superseded_at"])
            return pair.state
        RuleVerdict.objects.filter(pair=pair).delete()
        RuleVerdict.objects.bulk_create(
            RuleVerdict(pair=pair, **asdict(verdict)) for verdict in verdicts
        )
    pair.state = state
    return state


def check_waiting(project: Project | None = None, most: int | None = None) -> int:
    """Check the pairs that wait for it, of one project or of all, at most `most`; how
    many."""
    waiting = PreferencePair.objects.filter(
        state=PreferencePair.State.UNCHECKED, superseded_at=None
    )
    if project is not None:
        waiting = waiting.filter(project=project)
    waiting = waiting.select_related(
        "project", "prompt", "chosen__edited_from", "rejected__edited_from"
    ).order_by("pk")
    checked, last, count = 0, 0, TokenCounter()
    while (most is None or checked < most) and (
        batch := list(waiting.filter(pk__gt=last)[:BATCH])
    ):
        for pair in batch:
            check_pair(pair, count)
        checked += len(batch)
        last = batch[-1].pk
    return checked


def check_again(project: Project) -> int:
    """Ask the rules anew of every standing pair no round has taken; how many."""
    return PreferencePair.objects.filter(
        project=project, superseded_at=None, frozen_at=None
    ).update(state=PreferencePair.State.UNCHECKED)


def _facts(pair: PreferencePair, count: TokenCounter) -> validation.PairFacts:
    prompt_tokens = _prompt_tokens(pair, count)
    return validation.PairFacts(
        chosen=_text(pair.chosen),
        rejected=_text(pair.rejected),
        kind=pair.kind,
        chosen_finish=pair.chosen.finish_reason,
        rejected_finish=pair.rejected.finish_reason,
        prompt_tokens=prompt_tokens,
        chosen_tokens=_answer_tokens(pair, pair.chosen, prompt_tokens, count),
        rejected_tokens=_answer_tokens(pair, pair.rejected, prompt_tokens, count),
    )


def _text(completion: Completion) -> str:
    return "\n".join(
        str(message.get("content") or "") for message in answer_messages(completion)
    )


def _prompt_tokens(pair: PreferencePair, count: TokenCounter) -> int | None:
    for completion in (pair.chosen, pair.rejected):
        sampled = completion.edited_from or completion
        if sampled.prompt_token_ids is not None:
            return len(sampled.prompt_token_ids)
    return count(prompt_messages(pair))


def _answer_tokens(
    pair: PreferencePair,
    completion: Completion,
    prompt_tokens: int | None,
    count: TokenCounter,
) -> int | None:
    if completion.token_ids is not None:
        return len(completion.token_ids)
    if prompt_tokens is None:
        return None
    whole = count(prompt_messages(pair) + answer_messages(completion))
    return None if whole is None else max(0, whole - prompt_tokens)

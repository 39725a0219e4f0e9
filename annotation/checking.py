"""Rules asked of a pair, their verdicts stored: outside the request, repeatable.

The rules themselves are pure (validation.py); here the facts are gathered for them,
token counts of answers that weren't sampled included. What other pairs say of a pair is
found in neighbours.py, what a reviewer let through is heard in reviewing.py.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import chain, islice
from typing import Any

from django.db import DatabaseError, transaction
from django.db.models import Q

from annotation import neighbours, project_settings, validation
from annotation.batches import paged
from annotation.exporting import answer_messages, prompt_messages
from annotation.models import (
    Completion,
    LetThrough,
    PreferencePair,
    Project,
    Prompt,
    RuleVerdict,
)
from annotation.texts import sha256_of
from inference import services as inference
from inference.errors import InferenceError

logger = logging.getLogger(__name__)

BATCH = 200
State = PreferencePair.State
UNCHECKED = State.UNCHECKED


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
    changed, say) replaces the verdicts; what a reviewer let through stays let through.
    """
    if pair.frozen_at is not None or pair.superseded_at is not None:
        return pair.state
    count = count or TokenCounter()
    settings = project_settings.of(pair.project)
    while (state := _checked(pair, settings, count)) is None:
        settings = _settings_now(pair)
    return state


def _settings_now(pair: PreferencePair) -> project_settings.ProjectSettings:
    return project_settings.of(Project.objects.get(pk=pair.project_id))


def _checked(
    pair: PreferencePair,
    settings: project_settings.ProjectSettings,
    count: TokenCounter,
) -> str | None:
    """The state by these settings; None if the rules were changed meanwhile."""
    facts = facts_of(pair, settings, count)
    while True:
        seen = neighbours.note(pair, facts.chosen, facts.rejected)
        known = replace(
            facts,
            near_prompt=pair.near_likeness,
            near_left_out=seen.near_left_out,
            agreeing=seen.agreeing,
            opposing=seen.opposing,
        )
        verdicts = validation.check(known, settings.rules)
        with transaction.atomic():
            project = neighbours.take_turn(pair.project_id, settings)
            if project is None:
                # Pairs of one prompt are stored in turn, so that of two that contradict
                # each other the later one has seen the earlier one.
                Prompt.objects.select_for_update(no_key=True).get(pk=pair.prompt_id)
            if neighbours.is_still_so(pair, seen, is_near_asked=project is not None):
                return _store(pair, verdicts, settings, seen, project)


def _store(
    pair: PreferencePair,
    verdicts: list[validation.Verdict],
    settings: project_settings.ProjectSettings,
    seen: neighbours.Others,
    project: Project | None,
) -> str | None:
    """The state; `project` is what `take_turn` locked."""
    unfrozen = PreferencePair.objects.filter(
        pk=pair.pk, frozen_at=None, superseded_at=None
    )
    # Locked before the reviewer's word is read: who gives or takes it locks it, too.
    locked = unfrozen.select_for_update(no_key=True).values_list("state", flat=True)
    if not (was := list(locked)):
        pair.refresh_from_db(fields=["state", "frozen_at", "superseded_at"])
        return pair.state
    # Read under the project's lock or the pair's: whoever changes the rules takes the
    # one before, and marks the pair after that.
    now = project_settings.of(project) if project else _settings_now(pair)
    if rules_version(now) != rules_version(settings):
        return None
    word = standing_word(pair)
    allowed = (
        validation.still_let_through(verdicts, word.rules, word.seen) if word else []
    )
    pair.state = validation.state_of(verdicts, settings.accept_unchecked, allowed)
    pair.is_due = False
    unfrozen.update(state=pair.state, is_due=False)
    RuleVerdict.objects.filter(pair=pair).delete()
    RuleVerdict.objects.bulk_create(
        RuleVerdict(
            pair=pair,
            is_let_through=verdict.result != "pass" and verdict.rule in allowed,
            **asdict(verdict),
        )
        for verdict in verdicts
    )
    if seen.opposing:
        neighbours.reopen_others(pair, seen.agreeing, seen.opposing)
    if pair.state != State.ACCEPTED:
        if seen.has_bands:
            neighbours.fall(pair)
        if project:
            neighbours.reopen_kept_away(pair)
        return pair.state
    if not seen.has_bands:
        neighbours.stand(pair)
    if project and not (seen.has_bands and was == [State.ACCEPTED]):
        pair.project = project  # As it is now.
        neighbours.reopen_later(pair)
    return pair.state


def standing_word(pair: PreferencePair) -> LetThrough | None:
    """By which a reviewer let the pair through against some rules."""
    return LetThrough.objects.filter(pair=pair, taken_back_at=None).first()


def check_waiting(most: int | None = None) -> int:
    """Check the pairs that wait for it, at most `most`; how many.

    Those whose rules were changed first, and each in the order they were made, so that
    of near duplicates the first one stays.
    """
    standing = PreferencePair.objects.filter(superseded_at=None).select_related(
        "project", "prompt", "chosen__edited_from", "rejected__edited_from"
    )
    # Each in the order of its index: else an idle look reads all pairs there are.
    due = paged(standing.filter(is_due=True), "project_id", "pk", size=BATCH)
    unchecked = paged(standing.filter(state=UNCHECKED), "pk", size=BATCH)
    count = TokenCounter()
    checked = (1 for pair in chain(due, unchecked) if _is_checked(pair, count))
    return sum(islice(checked, most))


def _is_checked(pair: PreferencePair, count: TokenCounter) -> bool:
    try:
        check_pair(pair, count)
    except DatabaseError:
        raise
    except Exception:
        # Unchecked, which is shown; neither the others nor rounds wait for it.
        logger.exception("Pair %s could not be checked", pair.pk)
        PreferencePair.objects.filter(pk=pair.pk, frozen_at=None).update(
            state=UNCHECKED, is_due=False
        )
        neighbours.reopen_kept_away(pair)
        return False
    return True


def check_again(project: Project) -> None:
    """Have the rules asked anew of every checked pair no round has taken.

    Until a pair's turn comes, what the former rules said stays to be seen. Whether it
    was checked is asked in SET, not in WHERE: a pair whose check is being stored just
    now must be waited for, and PostgreSQL passes over rows that did not match before.
    """
    pairs = PreferencePair.objects.filter(
        project=project, superseded_at=None, frozen_at=None
    )
    with transaction.atomic():
        neighbours.lock(pairs)
        pairs.update(is_due=~Q(state=UNCHECKED))


def check_again_after_upgrade() -> None:
    """The same for projects whose pairs were checked by rules of an earlier version; else
    one look at the projects. A version that is older than theirs leaves them alone: while
    two run, they would take turns for ever."""
    version = validation.CODE_VERSION
    for project in Project.objects.filter(rules_code__lt=version):
        with transaction.atomic():
            # Before prompts and pairs, as who saves settings does.
            Project.objects.filter(pk=project.pk).update(rules_code=version)
            check_again(project)


Count = Callable[[list[dict[str, Any]]], int | None]


def facts_of(
    pair: PreferencePair,
    settings: project_settings.ProjectSettings,
    count: Count | None,
    measured: Mapping[str, float] | None = None,
) -> validation.PairFacts:
    """What the rules may know of the pair, but for what other pairs say of it.

    `measured` is what its stored verdicts measured: tokens are not counted again then,
    nor without a `count`.
    """
    measured = measured or {}
    tokens: tuple[int | None, ...] = (None, None, None)
    if count is not None and "max_length" not in measured:
        prompt = _prompt_tokens(pair, count)
        answers = (
            _answer_tokens(pair, answer, prompt, count)
            for answer in (pair.chosen, pair.rejected)
        )
        tokens = (prompt, *answers)
    return validation.PairFacts(
        chosen=_text(pair.chosen),
        rejected=_text(pair.rejected),
        prompt=neighbours.last_said(pair.prompt.messages),
        kind=pair.first_kind,
        chosen_finish=pair.chosen.finish_reason,
        rejected_finish=pair.rejected.finish_reason,
        prompt_tokens=tokens[0],
        chosen_tokens=tokens[1],
        rejected_tokens=tokens[2],
        round_max_length=_round_max_length(settings),
        near_prompt=pair.near_likeness,
        measured=measured,
    )


def rules_version(settings: project_settings.ProjectSettings) -> str:
    """sha256 of all that decides over a project's pairs; equal where it decides alike."""
    version = validation.version(settings.rules, settings.accept_unchecked)
    cut = _round_max_length(settings)
    return (
        sha256_of([version, cut])
        if cut and "max_length" in validation.asked(settings.rules)
        else version
    )


def _round_max_length(settings: project_settings.ProjectSettings) -> int | None:
    """What the project's rounds are told; the trainer's own default is not known here."""
    length = settings.round.get("config", {}).get("max_length")
    return length if isinstance(length, int) and length > 0 else None


def _text(completion: Completion) -> str:
    return "\n".join(map(neighbours.plain_content, answer_messages(completion)))


def _prompt_tokens(pair: PreferencePair, count: Count) -> int | None:
    for completion in (pair.chosen, pair.rejected):
        sampled = completion.edited_from or completion
        if sampled.prompt_token_ids is not None:
            return len(sampled.prompt_token_ids)
    return count(prompt_messages(pair))


def _answer_tokens(
    pair: PreferencePair,
    completion: Completion,
    prompt_tokens: int | None,
    count: Count,
) -> int | None:
    if completion.token_ids is not None:
        return len(completion.token_ids)
    if prompt_tokens is None:
        return None
    whole = count(prompt_messages(pair) + answer_messages(completion))
    return None if whole is None else max(0, whole - prompt_tokens)

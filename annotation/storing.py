"""Prompts, pairs and labelled answers from files as rows of the database, what is new of
them.

What the project has already is counted as a duplicate: a prompt is known by the hash of
its messages, a pair by that of its content, and so is an answer with its label.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from django.db import transaction

from annotation import exporting, project_settings, queries, texts
from annotation.files.faults import Messages
from annotation.files.messages import is_plain, plain
from annotation.files.pair_rows import (
    Labelled,
    PairRow,
    answer_sha256,
    content_sha256,
)
from annotation.models import (
    Completion,
    LabelledAnswer,
    PreferencePair,
    Project,
    Prompt,
)
from annotation.stock import nudge


@dataclass(frozen=True)
class Stored:
    accepted: int
    duplicates: int
    labelled: int = 0
    """Of the accepted, answers that make no pair."""


def store(project: Project, kind: str, batch: list[Any]) -> Stored:
    """Store what is new of a batch; the caller may hold a transaction around it."""
    if not batch:
        return Stored(0, 0)
    with transaction.atomic():
        # Two imports at once take turns here, so that what each reports is exact.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        if kind == "prompts":
            return _store_prompts(project, batch)
        return _store_pairs(project, batch)


def is_held_out(sha256: str, share: float) -> bool:
    """Whether the prompt of this hash measures: the same on every machine, for ever.

    By the hash's last digits: the stock takes prompts in the order of the first ones,
    and by those the prompts set aside would all be judged before any that trains.
    """
    return int(sha256[-13:], 16) / 16**13 < share


def _store_prompts(project: Project, batch: list[Messages]) -> Stored:
    by_sha = _by_sha(batch, texts.sha256_of)
    known = Prompt.objects.filter(project=project, sha256__in=by_sha)
    # What so far only stood before an imported pair, or came with gold, is now asked of
    # the policy too.
    idle = known.filter(is_asked=False)
    woken = idle.update(is_asked=True, is_gold=False)
    accepted = woken + len(_made_prompts(project, by_sha, is_asked=True))
    if accepted:
        nudge(project)
    return Stored(accepted, len(batch) - accepted)


def _by_sha(batch: list[Any], sha256_of: Any) -> dict[str, Any]:
    """{hash: the first with it}, in the batch's order."""
    found: dict[str, Any] = {}
    for one in batch:
        found.setdefault(sha256_of(one), one)
    return found


def _made_prompts(
    project: Project, by_sha: dict[str, Messages], *, is_asked: bool
) -> list[Prompt]:
    """Rows for those of the hashes that the project has no prompt of."""
    known = set(
        Prompt.objects.filter(project=project, sha256__in=by_sha).values_list(
            "sha256", flat=True
        )
    )
    share = project_settings.of(project).held_out_share
    return Prompt.objects.bulk_create(
        Prompt(
            project=project,
            messages=messages,
            sha256=sha256,
            is_held_out=is_held_out(sha256, share),
            is_asked=is_asked,
        )
        for sha256, messages in by_sha.items()
        if sha256 not in known
    )


def _store_pairs(project: Project, batch: list[PairRow | Labelled]) -> Stored:
    pairs = [one for one in batch if isinstance(one, PairRow)]
    accepted = _store_whole(project, pairs)
    # After them: a pair says of its two answers all that a label would.
    answers = [one for one in batch if isinstance(one, Labelled)]
    labelled = _store_labelled(project, answers)
    accepted += labelled
    return Stored(accepted, len(batch) - accepted, labelled)


def _store_whole(project: Project, batch: list[PairRow]) -> int:
    new = _by_sha(batch, lambda pair: pair.sha256)
    for sha256 in _known_pairs(project, new):
        new.pop(sha256, None)
    rows = _with_prompts(project, list(new.values()))
    answers = Completion.objects.bulk_create(
        _completion(prompt, messages)
        for prompt, pair in rows
        for messages in (pair.chosen, pair.rejected)
    )
    PreferencePair.objects.bulk_create(
        PreferencePair(
            project=project,
            prompt=prompt,
            kind=PreferencePair.Kind.IMPORTED,
            chosen=answers[2 * place],
            rejected=answers[2 * place + 1],
            weight=pair.weight,
            extra={"format": pair.format, "kept": pair.kept}
            | ({"edited": True} if pair.is_edit else {}),
            content_sha256=pair.sha256,
        )
        for place, (prompt, pair) in enumerate(rows)
    )
    return len(new)


def _store_labelled(project: Project, batch: list[Labelled]) -> int:
    new = _by_sha(batch, lambda answer: answer.sha256)
    for sha256 in _known_answers(project, new):
        new.pop(sha256, None)
    rows = _with_prompts(project, list(new.values()))
    completions = Completion.objects.bulk_create(
        _completion(prompt, answer.completion) for prompt, answer in rows
    )
    LabelledAnswer.objects.bulk_create(
        LabelledAnswer(
            project=project,
            prompt=prompt,
            completion=completion,
            label=answer.label,
            weight=answer.weight,
            kept=json.dumps(answer.kept, ensure_ascii=False),
            content_sha256=answer.sha256,
        )
        for (prompt, answer), completion in zip(rows, completions, strict=True)
    )
    return len(new)


def _with_prompts(project: Project, batch: list[Any]) -> list[tuple[Prompt, Any]]:
    """Each pair or answer and its prompt's row, made where there is none."""
    asked = _by_sha([one.prompt for one in batch], texts.sha256_of)
    _made_prompts(project, asked, is_asked=False)
    prompts = {
        prompt.sha256: prompt
        for prompt in Prompt.objects.filter(project=project, sha256__in=asked)
    }
    return [(prompts[texts.sha256_of(one.prompt)], one) for one in batch]


def _completion(prompt: Prompt, messages: Messages) -> Completion:
    """Its html is left empty: pages render it when it is first looked at, as rendering
    a hundred thousand answers that nobody may ever open takes minutes."""
    is_one = len(messages) == 1 and is_plain(messages)
    return Completion(
        prompt=prompt,
        source=Completion.Source.IMPORTED,
        text="\n\n".join(filter(None, map(plain, messages))),
        messages=None if is_one else messages,
    )


def _known_pairs(project: Project, new: dict[str, PairRow]) -> set[str]:
    """The hashes that a pair of the project has: imported, or judged or repaired here and
    exported. So has one whose answers came in before, each alone: an export lays them
    side by side, which is no news."""
    pairs = PreferencePair.objects.filter(project=project)
    known = set(
        pairs.filter(content_sha256__in=new).values_list("content_sha256", flat=True)
    )
    halves = {
        sha256: {
            answer_sha256(pair.prompt, pair.chosen, True),
            answer_sha256(pair.prompt, pair.rejected, False),
        }
        for sha256, pair in new.items()
        if pair.format == "kto"
    }
    alone = _known_alone(project, [one for both in halves.values() for one in both])
    known.update(sha256 for sha256, both in halves.items() if both <= alone)
    asked = _asked(new.values())
    judged = pairs.filter(
        content_sha256="", prompt__sha256__in=asked, superseded_at=None
    )
    for pair in exporting.in_full(judged):
        known.add(
            content_sha256(
                exporting.prompt_messages(pair),
                exporting.answer_messages(pair.chosen),
                exporting.answer_messages(pair.rejected),
            )
        )
    return known


def _known_answers(project: Project, new: dict[str, Labelled]) -> set[str]:
    """The hashes that the project's export of labelled answers says already: by one that
    was imported, by a pair, or by a tie or both-bad."""
    known = _known_alone(project, new)
    asked = _asked(new.values())
    pairs = PreferencePair.objects.filter(
        project=project, prompt__sha256__in=asked, superseded_at=None
    )
    for pair in exporting.in_full(pairs):
        known.update(starmap(answer_sha256, exporting.labelled_of(pair)))
    alike = queries.alike_decisions(project).filter(
        comparison__prompt__sha256__in=asked
    )
    for row in exporting.labelled_alike(alike):
        known.add(answer_sha256(row["prompt"], row["completion"], row["label"]))
    return known


def _known_alone(project: Project, hashes: Iterable[str]) -> set[str]:
    found = LabelledAnswer.objects.filter(project=project, content_sha256__in=hashes)
    return set(found.values_list("content_sha256", flat=True))


def _asked(batch: Iterable[PairRow | Labelled]) -> set[str]:
    """Hashes of the prompts, as they are and without the system prompt: a project's own
    is put before what is exported."""
    asked = set()
    for one in batch:
        asked.add(texts.sha256_of(one.prompt))
        if one.prompt[0]["role"] == "system" and len(one.prompt) > 1:
            asked.add(texts.sha256_of(one.prompt[1:]))
    return asked

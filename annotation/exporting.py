"""Judgments as training data: pairs as TRL and OpenAI have them, and answers with labels.

The prompt is the one the policy answered, its project's system prompt included. Labelled
answers ("kto", as training/dpo and TRL's KTOTrainer read them) also say what no pair
can: that both answers were good, or both bad.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.db.models import QuerySet

from annotation import queries
from annotation.models import Completion, Decision, PreferencePair, Project, Prompt

Row = dict[str, Any]
Messages = list[dict[str, Any]]

_LARGE = ("prompt_token_ids", "token_ids", "logprobs", "html")
_UNUSED = [f"{side}__{name}" for side in ("chosen", "rejected") for name in _LARGE]
_UNUSED_OF_TWO = [f"comparison__{side}__{name}" for side in "ab" for name in _LARGE]


def export(project: Project, format: str) -> Iterator[str]:
    """A project's sound pairs as lines of JSON; as "kto" its ties and both-bads too."""
    yield from jsonl(queries.sound_pairs(project), format)
    if format == "kto":
        yield from map(_line, labelled_alike(queries.alike_decisions(project)))


def rows(pairs: Iterable[PreferencePair], format: str = "trl") -> Iterator[Row]:
    """A pair's rows, in the order of their ids. `format` is one of FORMATS."""
    to_rows = _ROWS[format]
    if isinstance(pairs, QuerySet):
        pairs = (
            pairs.select_related(
                "prompt", "chosen__edited_from", "rejected__edited_from"
            )
            .defer(*_UNUSED)
            .order_by("pk")
            .iterator(chunk_size=500)
        )
    for pair in pairs:
        yield from to_rows(pair)


def jsonl(pairs: Iterable[PreferencePair], format: str = "trl") -> Iterator[str]:
    """The same as lines of JSON, each with its newline."""
    return map(_line, rows(pairs, format))


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def labelled_alike(decisions: QuerySet[Decision]) -> Iterator[Row]:
    """Two answers a decision: desirable of a tie ("equally good"), not of a both-bad.

    As for pairs by default, nothing empty or cut off.
    """
    found = decisions.select_related(
        "comparison__prompt", "comparison__a", "comparison__b"
    )
    found = found.defer(*_UNUSED_OF_TWO).order_by("pk")
    for decision in found.iterator(chunk_size=500):
        of = decision.comparison
        asked = _asked(of.prompt, (of.a, of.b))
        for side, answer in (("a", of.a), ("b", of.b)):
            if answer.text.strip() and answer.finish_reason != "length":
                yield {
                    "id": f"{decision.outcome}-{of.pk}-{side}",
                    "prompt": asked,
                    "completion": answer_messages(answer),
                    "label": decision.outcome == Decision.Outcome.TIE,
                }


def prompt_messages(pair: PreferencePair) -> Messages:
    """What was asked: the prompt, and before it the system prompt used in sampling."""
    return _asked(pair.prompt, (pair.chosen, pair.rejected))


def _asked(prompt: Prompt, answers: Iterable[Completion]) -> Messages:
    messages: Messages = prompt.messages
    if messages[0]["role"] == "system":
        return messages
    for completion in answers:
        sampled = completion.edited_from or completion
        system_prompt = sampled.sampling.get("system_prompt")
        if system_prompt:
            return [{"role": "system", "content": system_prompt}, *messages]
    return messages


def answer_messages(completion: Completion) -> Messages:
    """One assistant message, or what an import brought."""
    if completion.messages is not None:
        messages: Messages = completion.messages
        return messages
    return [{"role": "assistant", "content": completion.text}]


def _trl(pair: PreferencePair) -> list[Row]:
    row: Row = {
        "id": str(pair.pk),
        "prompt": prompt_messages(pair),
        "chosen": answer_messages(pair.chosen),
        "rejected": answer_messages(pair.rejected),
    }
    return [row | _weight(pair)]


def _openai(pair: PreferencePair) -> list[Row]:
    return [
        {
            "input": {"messages": prompt_messages(pair)},
            "preferred_output": answer_messages(pair.chosen),
            "non_preferred_output": answer_messages(pair.rejected),
        }
    ]


def _kto(pair: PreferencePair) -> list[Row]:
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    if pair.kind == PreferencePair.Kind.EDITED:
        # What was edited had won its own pair; it is not undesirable.
        del answers["rejected"]
    return [
        {
            "id": f"{pair.pk}-{side}",
            "prompt": prompt_messages(pair),
            "completion": answer_messages(answer),
            "label": side == "chosen",
        }
        | _weight(pair)
        for side, answer in answers.items()
    ]


def _weight(pair: PreferencePair) -> Row:
    return {"weight": pair.weight} if pair.weight != 1 else {}


_ROWS: dict[str, Callable[[PreferencePair], list[Row]]] = {
    "trl": _trl,
    "openai": _openai,
    "kto": _kto,
}

FORMATS = frozenset(_ROWS)

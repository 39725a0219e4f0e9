"""Judgments as training data: pairs in every format of design §5.4.

The prompt is the one the policy answered, its project's system prompt included. An
imported pair goes out in the format it came in as the row it was. Labelled answers
("kto", as training/dpo and TRL's KTOTrainer read them) also say what no pair can: that
both answers were good, or both bad, or what a label that was imported alone said.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from django.db.models import Prefetch, QuerySet

from annotation.batches import paged
from annotation.files import llamafactory, pair_restoring, pair_writing
from annotation.files.faults import Messages, Row
from annotation.files.messages import is_plain
from annotation.files.pair_writing import LeftOut
from annotation.models import (
    Completion,
    Decision,
    LabelledAnswer,
    PreferencePair,
    Prompt,
)
from annotation.models.comparisons import TOKENS, unseen


def labelled_beside(
    alike: QuerySet[Decision], alone: QuerySet[LabelledAnswer]
) -> Iterator[str]:
    """Lines of labelled answers that no pair says: of such decisions, and imported."""
    yield from map(line, labelled_alike(alike))
    yield from map(line, labelled_alone(alone))


def rows(
    pairs: Iterable[PreferencePair],
    format: str = "trl",
    left_out: Counter[str] | None = None,
) -> Iterator[Row]:
    """A pair's rows, in the order of their ids. `format` is one of FORMATS.

    What the format can't say is left out, and counted by reason in `left_out`.
    """
    return _rows(pairs, _ROWS[format], left_out)


def sharegpt_rows(
    pairs: Iterable[PreferencePair], left_out: Counter[str]
) -> Iterator[Row]:
    """LLaMA-Factory's rows, all of the one form that a dataset_info.json describes: what
    was imported in another of its forms, too."""
    return _rows(pairs, _llamafactory, left_out)


def _rows(
    pairs: Iterable[PreferencePair],
    to_rows: Callable[[PreferencePair], list[Row]],
    left_out: Counter[str] | None,
) -> Iterator[Row]:
    for pair in in_full(pairs):
        try:
            yield from to_rows(pair)
        except LeftOut as reason:
            if left_out is not None:
                left_out[str(reason)] += 1


def in_full(pairs: Iterable[PreferencePair]) -> Iterable[PreferencePair]:
    """Pairs of a queryset with what a row needs, a page in memory at a time.

    Looked up by their ids, not joined: while PostgreSQL takes a table for empty that was
    analysed too early, it joins each pair by reading all of that table.
    """
    if not isinstance(pairs, QuerySet):
        return pairs
    answers = Completion.objects.defer(*TOKENS, "html").prefetch_related("edited_from")
    both = (Prefetch(side, answers) for side in ("chosen", "rejected"))
    return paged(pairs.prefetch_related("prompt", *both))


def jsonl(pairs: Iterable[PreferencePair], format: str = "trl") -> Iterator[str]:
    """The same as lines of JSON, each with its newline."""
    return map(line, rows(pairs, format))


def line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def labelled_alike(decisions: QuerySet[Decision]) -> Iterator[Row]:
    """Two answers a decision: desirable of a tie ("equally good"), not of a both-bad.

    As for pairs by default, nothing empty or cut off.
    """
    found = decisions.select_related(
        "comparison__prompt", "comparison__a", "comparison__b"
    )
    answers = unseen("comparison__a", "comparison__b", also=["html"])
    for decision in paged(found.defer(*answers)):
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


def labelled_alone(answers: QuerySet[LabelledAnswer]) -> Iterator[Row]:
    """Labelled answers that were imported without a partner, as the rows they were."""
    found = answers.select_related("prompt", "completion")
    for one in paged(found.defer(*unseen("completion", also=["html"]))):
        yield pair_restoring.restored_half(
            one.prompt.messages, answer_messages(one.completion), json.loads(one.kept)
        )


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


def _three(pair: PreferencePair) -> tuple[Messages, Messages, Messages]:
    answers = map(answer_messages, (pair.chosen, pair.rejected))
    return prompt_messages(pair), *answers


def _as_it_came(pair: PreferencePair) -> list[Row]:
    return pair_restoring.restored(
        pair.extra["format"], pair.extra["kept"], *_three(pair)
    )


def _in_its_own(
    format: str, write: Callable[[PreferencePair], list[Row]]
) -> Callable[[PreferencePair], list[Row]]:
    """`write`, but for what was imported in this very format."""

    def to_rows(pair: PreferencePair) -> list[Row]:
        return _as_it_came(pair) if pair.extra.get("format") == format else write(pair)

    return to_rows


def _trl(pair: PreferencePair) -> list[Row]:
    row = {"id": str(pair.pk), **pair_writing.trl_row(*_three(pair))}
    return [row | _tools(pair) | _weight(pair)]


def _openai(pair: PreferencePair) -> list[Row]:
    # Without a weight: Together's check of files refuses a column of no format it knows.
    row = pair_writing.openai_row(*_three(pair))
    return [row | {"input": row["input"] | _tools(pair)}]


def _together(pair: PreferencePair) -> list[Row]:
    if _tools(pair):
        raise LeftOut("its prompt has tools")
    return [pair_writing.together_row(*_three(pair))]


def _llamafactory_with_weight(pair: PreferencePair) -> list[Row]:
    # In every row, 1 or not: a column that only some rows have ends its loader. Its
    # converter reads the columns that dataset_info.json names, and no others.
    (row,) = _llamafactory(pair)
    return [{**row, "weight": pair.weight}]


def _llamafactory(pair: PreferencePair) -> list[Row]:
    return [llamafactory.row_of(*_three(pair))]


def _kto(pair: PreferencePair) -> list[Row]:
    return [
        {
            "id": f"{pair.pk}-{'chosen' if label else 'rejected'}",
            "prompt": prompt,
            "completion": completion,
            "label": label,
        }
        | _weight(pair)
        for prompt, completion, label in labelled_of(pair)
    ]


def labelled_of(pair: PreferencePair) -> list[tuple[Messages, Messages, bool]]:
    """What a pair says of its answers one by one: (prompt, completion, label)."""
    prompt, chosen, rejected = _three(pair)
    if pair.is_edit:
        # What was edited had won its own pair; it is not undesirable.
        return [(prompt, chosen, True)]
    return [(prompt, chosen, True), (prompt, rejected, False)]


def _weight(pair: PreferencePair) -> Row:
    return {"weight": pair.weight} if pair.weight != 1 else {}


def _tools(pair: PreferencePair) -> Row:
    """The tools that an imported row offered the assistant, where it had any."""
    if '"tools"' not in pair.extra.get("kept", ""):
        return {}
    (row, *_more) = _as_it_came(pair)
    given = row.get("input", row)
    tools = given.get("tools") if isinstance(given, dict) else None
    return {"tools": tools} if tools else {}


def table_row(pair: PreferencePair) -> Row:
    """For CSV and Parquet: the pair in columns, and the row it came as where those
    don't hold all of it."""
    prompt, chosen, rejected = _three(pair)
    original = ""
    if pair.extra:
        (row, *more) = _as_it_came(pair)
        if more:  # Labelled answers; a pair says as much.
            row = pair_writing.trl_row(prompt, chosen, rejected)
        known = {"prompt", "chosen", "rejected"}
        if set(row) - known or not is_plain([*prompt, *chosen, *rejected]):
            original = json.dumps(row, ensure_ascii=False)
    return {
        "id": str(pair.pk),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "weight": pair.weight,
        "kind": pair.first_kind,
        "original": original,
    }


_ROWS: dict[str, Callable[[PreferencePair], list[Row]]] = {
    "trl": _in_its_own("trl", _trl),
    "openai": _in_its_own("openai", _openai),
    "together": _together,
    "llamafactory": _in_its_own("llamafactory", _llamafactory_with_weight),
    "kto": _in_its_own("kto", _kto),
}

FORMATS = frozenset(_ROWS)
"""Each gives lines of JSON."""

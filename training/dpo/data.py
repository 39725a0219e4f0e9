"""pairs.jsonl and held_out.jsonl as pairs, or as answers with labels for KTO.

Each side is cut at its end to `max_length` tokens; a row whose prompt fills it is
dropped. For KTO a row is a prompt, a `completion` and its `label`; a pair becomes two
of them, each taken by itself. Unlike TRL, what is dropped or cut is counted with its
line numbers, each row is looked at (not only the first), and a malformed row is an error
naming line and field. Leaves out how a row becomes token ids; see `row_tokens.py`.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.dpo.config import is_number
from training.dpo.errors import TrainerError
from training.dpo.files import read_jsonl
from training.dpo.loss_facts import names_that
from training.dpo.row_tokens import (
    PAIR,
    BadRow,
    extract_prompt,
    given_ids,
    required,
    tokenized,
)

LINES_SHOWN = 50
LIGHTEST, HEAVIEST = 1e-300, 1e300
"""Of the weights of rows: sums of them, and their shares in these, are still numbers."""

BY_SIDE = {"chosen": True, "rejected": False}
"""The label of each of a pair's answers."""


@dataclass(frozen=True)
class Pair:
    """One preference pair as token ids, already cut to `max_length`."""

    id: str
    line: int
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Tokens of the longer side, prompt included."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))

    @property
    def chosen_tokens(self) -> int:
        """Tokens of the prompt and the chosen answer."""
        return len(self.prompt_ids) + len(self.chosen_ids)

    @property
    def chosen_scored(self) -> int:
        """Tokens of the chosen answer that a token precedes: those with a log-prob."""
        return len(self.chosen_ids) - (0 if self.prompt_ids else 1)

    @property
    def tokens(self) -> int:
        """Tokens of both sides, the prompt counted twice as TRL's num_tokens does."""
        answers = len(self.chosen_ids) + len(self.rejected_ids)
        return 2 * len(self.prompt_ids) + answers


def digest_of(pairs: Iterable[Pair]) -> str:
    """sha256 over all that is known of them: names, token ids, weights, labels."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(repr(pair).encode())
    return digest.hexdigest()


def prompts_of(pairs: Iterable[Pair]) -> set[tuple[int, ...]]:
    """The different prompts, as token ids."""
    return {tuple(pair.prompt_ids) for pair in pairs}


@dataclass(frozen=True)
class Answer(Pair):
    """One answer with a label (KTO), laid out as a pair of answers to one prompt.

    `chosen_ids` is the answer, `label` whether it is desirable. `rejected_ids` is a
    stray, the answer of another row, for the estimate of the KL: `strays.py` gives it
    where a loss reads that, else it is empty.
    `whole_ids` is the answer before it was cut.
    """

    label: bool = True
    whole_ids: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer, as TRL's num_tokens counts."""
        return self.chosen_tokens


@dataclass
class RowReport:
    """What became of a file's rows; goes into summary.json."""

    read: int = 0
    used: int = 0
    cut: dict[str, list[int]] = field(default_factory=dict)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    left_out_of_prompt: list[int] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """{"read", "used", "cut": {reason: {"count", "lines"}}, "dropped": …}."""
        return {
            "read": self.read,
            "used": self.used,
            "cut": {why: _counted(lines) for why, lines in self.cut.items()},
            "dropped": {why: _counted(lines) for why, lines in self.dropped.items()},
            "prompt_end_left_out": _counted(self.left_out_of_prompt),
        }


def _counted(lines: list[int]) -> dict[str, Any]:
    return {"count": len(lines), "lines": lines[:LINES_SHOWN]}


def _add_once(lines: list[int], line: int) -> None:
    """A pair's two answers, looked at one by one, may have the same said of them."""
    if line not in lines[-1:]:
        lines.append(line)


def read_pairs(
    path: Path,
    tokenizer: Any,
    max_length: int,
    vocabulary: int,
    each: Callable[[int], None] | None = None,
    unpaired: bool = False,
) -> tuple[list[Pair], RowReport]:
    """Read a file of pairs in its order.

    `vocabulary` is the number of ids the model knows; `each` is called with the
    number of rows read so far. `unpaired`: give Answers, of a pair the chosen one, then
    the rejected one. Raises TrainerError naming line and field.
    """
    pairs: list[Pair] = []
    reader = _Reader(tokenizer, max_length, vocabulary, RowReport(), unpaired)
    report = reader.report
    for line, row in read_jsonl(path):
        report.read += 1
        try:
            found = reader.read(row, line)
        except BadRow as problem:
            raise TrainerError(f"{path.name} line {line}: {problem}") from None
        pairs += found
        report.used += bool(found)
        if each is not None:
            each(report.read)
    return pairs, report


@dataclass
class _Reader:
    """Turns the rows of one file into pairs or labelled answers."""

    tokenizer: Any
    max_length: int
    vocabulary: int
    report: RowReport
    unpaired: bool
    single: bool | None = None
    """Whether its rows are single answers; None before the first."""

    lines: dict[str, int] = field(default_factory=dict)
    """The line of each id seen so far."""

    def read(self, row: Any, line: int) -> list[Pair]:
        """The row's pair, or its answers with labels; nothing if it is dropped."""
        if not isinstance(row, dict):
            raise BadRow('must be an object {"prompt": …, "chosen": …, "rejected": …}.')
        self._check_kind(row)
        weight = row.get("weight")
        weight = 1.0 if weight is None else weight
        if not is_number(weight) or weight < 0:
            raise BadRow(f'"weight" must be a number of at least 0, not {weight!r}.')
        if weight and not LIGHTEST <= weight <= HEAVIEST:
            raise BadRow(
                f'"weight" must be 0 or between {LIGHTEST:g} and {HEAVIEST:g}, not'
                f" {weight!r}."
            )
        row_id = line if row.get("id") is None else row["id"]
        if type(row_id) not in (str, int):
            raise BadRow(f'"id" must be a text or a whole number, not {row_id!r}.')
        found = self._found(row, str(row_id), line, float(weight))
        if found and self.lines.setdefault(found[0].id, line) != line:
            raise BadRow(
                f'"id" {found[0].id!r} is already that of line'
                f" {self.lines[found[0].id]}; give each row its own."
            )
        return found

    def _found(
        self, row: dict[str, Any], row_id: str, line: int, weight: float
    ) -> list[Pair]:
        if not self.unpaired:
            ids = self._cut(row, line, PAIR, weight)
            if ids is None:
                return []
            prompt, (chosen, rejected), _ = ids
            return [Pair(row_id, line, prompt, chosen, rejected, weight)]
        if not self.single and row.get("prompt") is None and "prompt_ids" not in row:
            row = {**row, **extract_prompt(*(required(row, side) for side in PAIR))}
        labels = {"completion": row["label"]} if self.single else BY_SIDE
        answers: list[Pair] = []
        for side, label in labels.items():
            ids = self._cut(row, line, (side,), weight)
            if ids is not None:
                prompt, (answer,), (whole,) = ids
                answers.append(
                    Answer(row_id, line, prompt, answer, [], weight, label, whole)
                )
        return answers

    def _check_kind(self, row: dict[str, Any]) -> None:
        """Raise if this row does not go with the loss, or with the rows before it."""
        single = not any(key in row for key in ("chosen", "rejected", "chosen_ids"))
        single = single and any(
            key in row for key in ("completion", "completion_ids", "label")
        )
        if single and not self.unpaired:
            raise BadRow(
                'one answer with a "label" is for the losses'
                f" {names_that(unpaired=True)}; give chosen and rejected, or choose one"
                " of them."
            )
        if self.single not in (None, single):
            kinds = ["a pair", "one answer with a label"]
            raise BadRow(
                f"{kinds[single]}, where the rows before have {kinds[not single]}; keep"
                " one kind in a file."
            )
        self.single = single
        if single and not isinstance(row.get("label"), bool):
            raise BadRow(f'"label" must be true or false, not {row.get("label")!r}.')

    def _cut(
        self, row: dict[str, Any], line: int, sides: Sequence[str], weight: float
    ) -> tuple[list[int], list[list[int]], list[list[int]]] | None:
        """(prompt, answers, answers before they were cut); None if the row is dropped."""
        found = given_ids(row, self.vocabulary, sides)
        if found is None:
            prompt, answers, left_out = tokenized(row, self.tokenizer, sides)
            highest = max(max(ids, default=0) for ids in (prompt, *answers))
            if highest >= self.vocabulary:
                raise BadRow(
                    f"the tokenizer gives id {highest}, but the model knows"
                    f" {self.vocabulary} ids; they do not belong together."
                )
            if left_out:
                _add_once(self.report.left_out_of_prompt, line)
        else:
            prompt, answers = found
        why = None
        if len(prompt) >= self.max_length:
            why = "the prompt alone fills max_length"
        elif weight == 0:
            why = "its weight is 0"
        for side, answer in zip(sides, answers, strict=True):
            # Without a token before it, an answer's first token has no prediction.
            if why is None and len(answer) <= (0 if prompt else 1):
                why = f"{side} has no token to predict"
        if why is not None:
            _add_once(self.report.dropped.setdefault(why, []), line)
            return None
        room = self.max_length - len(prompt)
        for side, answer in zip(sides, answers, strict=True):
            if len(answer) > room:
                self.report.cut.setdefault(f"{side} cut to max_length", []).append(line)
        return prompt, [answer[:room] for answer in answers], answers

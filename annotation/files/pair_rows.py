"""A pair as read from a row, and half of one; nothing here knows a format.

Reading rows is pair_reading.py, giving them back as they came pair_restoring.py, writing
pairs that were made here pair_writing.py.
"""

from dataclasses import dataclass

from annotation import texts
from annotation.files.faults import Messages, Row


@dataclass(frozen=True)
class PairRow:
    """A pair as read. `kept` is JSON for `restored` (pair_restoring.py), in the same `format`."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    format: str
    kept: str
    weight: float = 1.0
    is_edit: bool = False
    """Whether our own table says that the chosen answer is the other one, improved."""

    @property
    def sha256(self) -> str:
        return content_sha256(self.prompt, self.chosen, self.rejected)


@dataclass(frozen=True)
class Labelled:
    """An answer that was found good or bad, alone."""

    prompt: Messages
    completion: Messages
    label: bool
    kept: Row
    """For `restored_half`."""
    weight: float = 1.0
    id: str = ""
    """The row's own, by which an export of ours says what belongs together."""
    format = "kto"

    @property
    def sha256(self) -> str:
        return answer_sha256(self.prompt, self.completion, self.label)


def answer_sha256(prompt: Messages, completion: Messages, label: bool) -> str:
    """What makes two labelled answers the same one."""
    return texts.sha256_of([prompt, completion, label])


def content_sha256(prompt: Messages, chosen: Messages, rejected: Messages) -> str:
    """What makes two pairs the same pair, whatever format or id they came with."""
    return texts.sha256_of([prompt, chosen, rejected])

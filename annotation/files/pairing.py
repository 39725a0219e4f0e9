"""Labelled answers (KTO rows) joined to pairs, prompt by prompt.

A good and a bad answer to one prompt are a pair; each answer is used once, in the
file's order. Rows that an export of ours wrote say in their id what belongs together,
and join nothing else: answers that nobody compared would be no pair. What finds no
partner is given back alone. Rows wait in memory, so at most WAITING of them do; then
the one that has waited longest is let go.
"""

import json
import re
from collections import OrderedDict, deque
from collections.abc import Iterator

from annotation import texts
from annotation.files.faults import Place
from annotation.files.pair_rows import Labelled, PairRow

WAITING = 20_000
WAITING_CHARS = 50_000_000

Found = tuple[Place, PairRow | Labelled]

_OF_A_PAIR = re.compile(r"(.+)-(chosen|rejected)")
_ALONE = re.compile(r"(tie|both_bad)-\d+-[ab]")


class Pairing:
    """`put` each labelled answer, then `leave`; both give what came of it."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[tuple[Place, Labelled, int]]]
        self._waiting = OrderedDict()
        self._count = self._chars = 0

    def put(self, place: Place, half: Labelled) -> Iterator[Found]:
        if _ALONE.fullmatch(half.id):
            yield place, half
            return
        of = _pair_of(half)
        key = texts.sha256_of([half.prompt, of, not half.label])
        if partners := self._waiting.get(key):
            _place, partner, chars = partners.popleft()
            self._count -= 1
            self._chars -= chars
            if not partners:
                del self._waiting[key]
            yield place, _joined(*((half, partner) if half.label else (partner, half)))
            return
        key = texts.sha256_of([half.prompt, of, half.label])
        chars = sum(len(str(m)) for m in (*half.prompt, *half.completion))
        self._waiting.setdefault(key, deque()).append((place, half, chars))
        self._count += 1
        self._chars += chars
        while self._count > WAITING or self._chars > WAITING_CHARS:
            yield self._let_go()

    def leave(self) -> Iterator[Found]:
        """What never found a partner."""
        while self._waiting:
            yield self._let_go()

    def _let_go(self) -> Found:
        key = next(iter(self._waiting))
        place, half, chars = self._waiting[key].popleft()
        if not self._waiting[key]:
            del self._waiting[key]
        self._count -= 1
        self._chars -= chars
        return place, half


def _pair_of(half: Labelled) -> str:
    """What pair of an export its row is half of; empty where it says nothing of it."""
    found = _OF_A_PAIR.fullmatch(half.id)
    is_it = found and (found[2] == "chosen") == half.label
    return found[1] if found and is_it else ""


def _joined(good: Labelled, bad: Labelled) -> PairRow:
    """Two labelled answers to one prompt as a pair."""
    return PairRow(
        good.prompt,
        good.completion,
        bad.completion,
        "kto",
        json.dumps({"rows": [good.kept, bad.kept]}, ensure_ascii=False),
        # The mean; the sum of two huge ones would be infinite.
        good.weight + (bad.weight - good.weight) / 2,
    )

"""Rows of a JSONL or CSV file as prompts, or what is wrong with each: no database.

Reads a byte stream line by line, in bounded memory, and never raises for a row: a bad
one is given as a BadRow whose text names field and fix. Only a file that can't be read
at all raises ImportRefused.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from django.utils.translation import gettext as _

from annotation import texts
from annotation.errors import ImportRefused
from annotation.retelling import retold

Format = Literal["jsonl", "csv"]
Messages = list[dict[str, str]]

MAX_LINE_BYTES = 1024 * 1024
MAX_PROMPT_CHARS = 100_000
MAX_MESSAGES = 200

ROLES = ("system", "user", "assistant")
_BOM = b"\xef\xbb\xbf"


class BadRow(Exception):
    """Why a row makes no prompt."""


def prompt_rows(
    stream: BinaryIO, format: Format | None
) -> Iterator[tuple[int, Messages | BadRow]]:
    """(line from 1, messages or what is wrong) for each row that isn't blank.

    Without `format`, a file whose first character is { or [ is JSONL, else CSV.
    """
    lines = _Lines(stream)
    if format is None:
        format = _sniffed(lines)
    return _jsonl_rows(lines) if format == "jsonl" else _csv_rows(lines)


class _Lines:
    """Lines of a byte stream, numbered, none longer than MAX_LINE_BYTES in memory."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.number = 0
        """Of the line given last."""
        self.too_long: set[int] = set()
        self._kept: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._kept.pop() if self._kept else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            self.too_long.add(self.number)
            line = b""
            while not line.endswith(b"\n"):
                line = self._stream.readline(MAX_LINE_BYTES)
                if not line:
                    break
            return b"\n"
        return line

    def put_back(self, line: bytes) -> None:
        self.number -= 1
        self._kept.append(line)

    def _read(self) -> bytes:
        line = self._stream.readline(MAX_LINE_BYTES + 1)
        if self.number == 0 and line:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise ImportRefused(_("The file is UTF-16. Save it as UTF-8."))
            line = line.removeprefix(_BOM) or self._stream.readline(MAX_LINE_BYTES + 1)
        return line


def _sniffed(lines: _Lines) -> Format:
    for line in lines:
        start = line.lstrip()[:1]
        if start:
            lines.put_back(line)
            return "jsonl" if start in (b"{", b"[") else "csv"
    return "jsonl"


def jsonl_objects(
    stream: "BinaryIO | _Lines",
) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """(line from 1, object or what is wrong) for each line of JSONL that isn't blank."""
    lines = stream if isinstance(stream, _Lines) else _Lines(stream)
    for line in lines:
        number = lines.number
        if number in lines.too_long:
            yield number, _too_long()
        elif line.strip():
            try:
                yield number, _parsed(line)
            except BadRow as bad:
                yield number, bad


def _jsonl_rows(lines: _Lines) -> Iterator[tuple[int, Messages | BadRow]]:
    for number, row in jsonl_objects(lines):
        try:
            yield number, row if isinstance(row, BadRow) else messages_of(row)
        except BadRow as bad:
            yield number, bad


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as wrong:
        raise BadRow(
            _("not UTF-8 at byte %(place)d; save the file as UTF-8")
            % {"place": wrong.start + 1}
        ) from None
    except json.JSONDecodeError as wrong:
        raise BadRow(
            _("not JSON: %(what)s at column %(place)d; write one object per line")
            % {"what": retold(wrong.msg), "place": wrong.colno}
        ) from None
    except RecursionError:
        raise BadRow(_("nested too deeply; a row is a flat object")) from None
    except ValueError as wrong:  # a number of thousands of digits
        raise BadRow(
            _("not JSON that can be read: %(what)s") % {"what": wrong}
        ) from None
    if not isinstance(row, dict):
        raise BadRow(_("not an object; write {“prompt”: “…”} or {“messages”: […]}"))
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(
            _("“%(name)s” is there twice; keep one of them") % {"name": twice[:40]}
        )
    return row


def _csv_rows(lines: _Lines) -> Iterator[tuple[int, Messages | BadRow]]:
    # What isn't UTF-8 becomes lone surrogates, found again in the record they are in.
    # Strict: a quote that is never closed is told, else it would swallow what follows.
    reader = csv.reader(
        (line.decode("utf-8", "surrogateescape") for line in lines), strict=True
    )
    column, width = _prompt_column(reader)
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            yield (
                start,
                BadRow(_("not CSV: %(what)s; check the quotes") % {"what": wrong}),
            )
            continue
        if any(n in lines.too_long for n in range(start, reader.line_num + 1)):
            yield start, _too_long()
        elif any(value.strip() for value in record):
            try:
                yield start, messages_of({"prompt": _cell(record, column, width)})
            except BadRow as bad:
                yield start, bad


def _prompt_column(reader) -> tuple[int, int]:
    """Its place in the first line that isn't empty, and how many columns that has.

    Raises ImportRefused.
    """
    try:
        header = next((record for record in reader if any(record)), None)
    except csv.Error as wrong:
        raise ImportRefused(
            _("The header isn't CSV: %(what)s.") % {"what": wrong}
        ) from None
    names = [name.strip().lower() for name in header or ()]
    if header and names.count("prompt") != 1:
        raise ImportRefused(
            _("A CSV file needs one column named “prompt”; the header has: %(names)s.")
            % {"names": _shown(", ".join(header))[:200]}
        )
    return (names.index("prompt"), len(names)) if header else (0, 0)


def _cell(record: list[str], column: int, width: int) -> str:
    if len(record) <= column:
        raise BadRow(
            _("has %(count)d columns, none for “prompt”; check commas and quotes")
            % {"count": len(record)}
        )
    if any(value.strip() for value in record[width:]):
        # A comma outside quotes has cut a text in two.
        raise BadRow(
            _("has %(count)d columns, the header %(width)d; put the text in quotes")
            % {"count": len(record), "width": width}
        )
    if any("\udc80" <= char <= "\udcff" for char in record[column]):
        raise BadRow(_("“prompt” is not UTF-8; save the file as UTF-8"))
    return record[column]


def messages_of(row: dict[str, Any]) -> Messages:
    """The chat messages that a row means; raises BadRow naming field and fix."""
    given = [name for name in ("prompt", "messages") if row.get(name) is not None]
    if not given:
        raise BadRow(_("has no “prompt” (a text) and no “messages” (a list); add one"))
    if len(given) == 2:
        raise BadRow(_("has both “prompt” and “messages”; keep one of them"))
    name, value = given[0], row[given[0]]
    if isinstance(value, str):
        if name == "messages":
            raise BadRow(_("“messages” is a text; make it a list, or name it “prompt”"))
        return [{"role": "user", "content": _content("prompt", value)}]
    if not isinstance(value, list):
        raise BadRow(
            _("“%(name)s” must be a text or a list of messages") % {"name": name}
        )
    if not 1 <= len(value) <= MAX_MESSAGES:
        raise BadRow(
            _("“%(name)s” has %(count)d messages; give 1 to %(most)d")
            % {"name": name, "count": len(value), "most": MAX_MESSAGES}
        )
    messages = [_message(f"{name}[{i}]", one, i) for i, one in enumerate(value)]
    if messages[-1]["role"] != "user":
        raise BadRow(
            _("the last message is of role “%(role)s”; a prompt ends with the user's")
            % {"role": messages[-1]["role"]}
        )
    return messages


def _message(place: str, message: Any, index: int) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadRow(
            _("%(place)s is not an object; write {“role”: “user”, “content”: “…”}")
            % {"place": place}
        )
    role = message.get("role")
    if role not in ROLES:
        raise BadRow(
            _("%(place)s.role is “%(role)s”; use %(known)s")
            % {
                "place": place,
                "role": _shown(str(role))[:40],
                "known": ", ".join(ROLES),
            }
        )
    if role == "system" and index > 0:
        raise BadRow(
            _("%(place)s.role is “system”; only the first message may be")
            % {"place": place}
        )
    unknown = sorted(set(message) - {"role", "content"})
    if unknown:
        raise BadRow(
            _("%(place)s has “%(name)s”, which a prompt can't hold; remove it")
            % {"place": place, "name": _shown(unknown[0])[:40]}
        )
    content = message.get("content")
    if not isinstance(content, str):
        raise BadRow(_("%(place)s.content must be a text") % {"place": place})
    return {"role": str(role), "content": _content(f"{place}.content", content)}


def _content(place: str, text: str) -> str:
    if not text.strip():
        raise BadRow(_("“%(place)s” is empty; write the question") % {"place": place})
    problem = texts.problem(text, MAX_PROMPT_CHARS)
    if problem:
        raise BadRow(_("“%(field)s” %(what)s") % {"field": place, "what": problem})
    return text


def _too_long() -> BadRow:
    return BadRow(
        _("longer than %(most)d bytes; shorten or split it") % {"most": MAX_LINE_BYTES}
    )


def _shown(text: str) -> str:
    """Without what a report's JSON or a terminal can't carry."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)

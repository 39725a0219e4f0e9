"""Rows of JSONL, of a JSON list and of CSV: (line from 1, row or what is wrong).

Never raises for a row; ImportRefused only for a file that can't be read at all. A CSV
row is {column: text}. In a file that was exported here, known by its columns, texts made
harmless for spreadsheets (a quote before =, +, -, @, tab, CR) are as they were before.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from typing import Any, Literal

from django.utils.translation import gettext as _

from annotation.errors import ImportRefused
from annotation.files.columns import is_ours
from annotation.files.faults import MAX_ROW_DEPTH, BadRow, Messages, Row, shown
from annotation.files.lines import Damaged, Lines
from annotation.retelling import retold

TextFormat = Literal["jsonl", "json", "csv"]
Numbered = Iterator[tuple[int, Row | BadRow]]

# What a spreadsheet takes for a formula (OWASP's list), behind quotes put before it.
_DEFUSED = re.compile("'+[=+\\-@\t\r\n＝＋－＠]")
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")

_STATED = re.compile(r"sep=([,;\t])\r?\n?", re.IGNORECASE)
_QUOTED = re.compile('"[^"]*"')
_KNOWN = {"prompt", "messages", "conversations", "instruction", "chosen", "completion"}

MAX_COLUMNS = 1000
MAX_CELL = 4 * 1024 * 1024
"""Characters: a cell holds as much as a pair's whole line may, as our own `original` does."""
# Of the whole process; csv knows no other way. Nothing but an import reads CSV here, its
# lines are bounded besides, and set once at the start it changes under no reader's feet.
csv.field_size_limit(MAX_CELL)


def sniffed(lines: Lines, name: str = "") -> TextFormat:
    """By the first character that isn't white: { JSONL, [ a JSON list; else by the file's
    name, as its first line may be broken; else CSV."""
    start = lines.first()
    if start == b"[":
        return "json"
    return "jsonl" if start in (b"{", b"") or is_named_jsonl(name) else "csv"


def is_named_jsonl(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))


def text_rows(
    lines: Lines, format: TextFormat | None, needs: str = "", name: str = ""
) -> Numbered:
    """The rows; a stream that breaks off ends with one bad row that says so.

    `needs` names the column that a CSV file must have, if any; `name` is the file's.
    """
    try:
        format = format or sniffed(lines, name)
        reader = {"jsonl": _jsonl_rows, "json": _json_rows}
        if format in reader:
            yield from reader[format](lines)
        else:
            yield from _csv_rows(lines, needs)
    except Damaged as damaged:
        yield lines.number + 1, BadRow(str(damaged))


def _jsonl_rows(lines: Lines) -> Numbered:
    for line in lines:
        number = lines.number
        if number in lines.too_long:
            yield number, too_long(lines)
        elif line.strip():
            try:
                yield number, parsed(line)
            except BadRow as bad:
                yield number, bad


def _json_rows(lines: Lines) -> Numbered:
    """Elements of one list, one of them and a piece of the file in memory at a time.

    One that is no JSON ends the list: there is no telling where the next begins. What
    else is wrong with one is found once it is read, and the next ones are read on.
    """
    faults: list[BadRow] = []
    decoder = json.JSONDecoder(
        object_pairs_hook=_noted(unique, faults), parse_int=_noted(int, faults)
    )
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, line, is_open = "", lines.number + 1, False
    for chunk in _ended(lines.chunks()):
        text += decode(chunk, not chunk)
        if not is_open:
            text, is_open = text.lstrip()[1:], True
        while True:
            rest = text.lstrip(" \t\r\n,")
            line += text.count("\n", 0, len(text) - len(rest))
            text = rest
            if not text:
                break
            if text[0] == "]":
                if text[1:].strip():
                    yield line, BadRow(_("goes on after the list's end; remove that"))
                return
            faults.clear()
            try:
                row, end = decoder.raw_decode(text)
                if end == len(text) and chunk:
                    break  # A number may go on.
            except (RecursionError, ValueError) as wrong:
                if chunk and len(text) <= lines.longest:
                    break  # It may only be cut off.
                bad = too_long(lines) if chunk else _not_json(wrong)
                yield line, _list_ended(bad)
                return
            bad = _undecoded(text[:end]) or next(iter(faults), None)
            yield line, bad or _object(row)
            line += text.count("\n", 0, end)
            text = text[end:]
    yield line, BadRow(_("the list has no end; the file may be cut off"))


def _noted(hook: Callable[[Any], Any], faults: list[BadRow]) -> Callable[[Any], Any]:
    """`hook` of a decoder; what it raises is noted, and the decoder goes on."""

    def safe(value: Any) -> Any:
        try:
            return hook(value)
        except BadRow as bad:
            faults.append(bad)
        except ValueError as wrong:
            faults.append(_not_json(wrong))

    return safe


def _undecoded(text: str) -> BadRow | None:
    """What is wrong where bytes that aren't UTF-8 came as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            text.encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeDecodeError as wrong:
            return _not_utf8(wrong)
    return None


def _ended(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, then an empty one: nothing more comes."""
    yield from chunks
    yield b""


def _list_ended(bad: BadRow) -> BadRow:
    rest = _("what follows in this list can't be read; mend it, or write JSONL instead")
    return BadRow(f"{bad}; {rest}")


def parsed(line: bytes | str) -> Row:
    """One JSON object. Raises BadRow."""
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        row = json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as wrong:
        raise _not_utf8(wrong) from None
    except json.JSONDecodeError as wrong:
        # A whole object before a CR, and something after it.
        is_cr = wrong.msg == "Extra data" and "\r" in wrong.doc[: wrong.pos]
        raise BadRow(cr_alone()) if is_cr else _not_json(wrong) from None
    except (RecursionError, ValueError) as wrong:
        raise _not_json(wrong) from None
    if isinstance(checked := _object(row), BadRow):
        raise checked
    return checked


def _not_utf8(wrong: UnicodeDecodeError) -> BadRow:
    return BadRow(
        _("not UTF-8 at byte %(place)d; save the file as UTF-8")
        % {"place": wrong.start + 1}
    )


def _not_json(wrong: Exception) -> BadRow:
    if isinstance(wrong, json.JSONDecodeError):
        return BadRow(
            _("not JSON: %(what)s at column %(place)d; write one object per line")
            % {"what": retold(wrong.msg), "place": wrong.colno}
        )
    if isinstance(wrong, RecursionError):
        return BadRow(_("nested too deeply; a row is a flat object"))
    # A number of thousands of digits, say.
    return BadRow(_("not JSON that can be read: %(what)s") % {"what": wrong})


def _object(row: Any) -> Row | BadRow:
    if not isinstance(row, dict):
        return BadRow(_("not an object; write {“prompt”: “…”} or {“messages”: […]}"))
    if depth(row) > MAX_ROW_DEPTH:
        return BadRow(_("nested too deeply; a row is a flat object"))
    return row


def depth(value: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    deepest, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        deepest += 1
        if deepest > MAX_ROW_DEPTH:
            break
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return deepest


def unique(pairs: list[tuple[str, Any]]) -> Row:
    """An object of JSON (json's object_pairs_hook). Raises BadRow naming a doubled key."""
    row = dict(pairs)
    if len(row) != len(pairs):
        # Counted in one go: with 40,000 names, a count for each took half a minute.
        ((twice, _times),) = Counter(name for name, _value in pairs).most_common(1)
        raise BadRow(
            _("“%(name)s” is there twice; keep one of them")
            % {"name": shown(twice)[:40]}
        )
    return row


def _csv_rows(lines: Lines, needs: str) -> Numbered:
    # What isn't UTF-8 becomes lone surrogates, found again in the record they are in.
    # Strict: a quote that is never closed is told, else it would swallow what follows.
    text = (line.decode("utf-8", "surrogateescape") for line in lines)
    skipped, header, delimiter = _begin(text)
    whole = chain(repeat("\n", skipped), [header], text)
    reader = csv.reader(whole, delimiter=delimiter, strict=True)
    names = _header(reader, lines, needs)
    read = fused if is_ours(names) else str
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            bad = BadRow(_not_csv(wrong))
            if "field larger than field limit" in str(wrong):
                # The reader stands inside the cell: its other lines would be records.
                rest = _("what follows can't be told apart")
                yield start, BadRow(f"{bad}; {rest}")
                return
            yield start, bad
            continue
        if any(n in lines.too_long for n in range(start, reader.line_num + 1)):
            yield start, too_long(lines)
        elif any(value.strip() for value in record):
            try:
                yield start, _record(names, [read(cell) for cell in record], needs)
            except BadRow as bad:
                yield start, bad


def _begin(text: Iterator[str]) -> tuple[int, str, str]:
    """(lines before the header, its first line, what stands between its columns).

    Between them is what a line `sep=;` (Excel's word) says, else that of comma, semicolon
    (spreadsheets write it where the comma is the decimal point) and tab which leaves most
    names that are known here, then the commonest.
    """
    stated = None
    for skipped, line in enumerate(text):
        if stated is None and (said := _STATED.fullmatch(line)):
            stated = said[1]
        elif line.strip():
            header = _QUOTED.sub(_inside, line)
            return skipped, line, stated or max(",;\t", key=partial(_fit, header))
    return 0, "", ","


def _inside(quoted: re.Match[str]) -> str:
    """A quoted name without what could be taken for its end."""
    return re.sub('[",;\t]', "", quoted[0])


def _fit(header: str, delimiter: str) -> tuple[int, int]:
    names = {name.strip().lower() for name in header.split(delimiter)}
    return len(names & _KNOWN), header.count(delimiter)


def _not_csv(wrong: csv.Error) -> str:
    if str(wrong).startswith("new-line character"):  # Python's word for a lone CR.
        return cr_alone()
    return _("not CSV: %(what)s; check the quotes") % {"what": wrong}


def cr_alone() -> str:
    return _("its lines end with CR alone; save the file with LF or CRLF as line ends")


def _header(reader: Any, lines: Lines, needs: str) -> list[str]:
    """The columns of the first line that isn't empty. Raises ImportRefused."""
    try:
        header = next((record for record in reader if any(record)), None)
    except csv.Error as wrong:
        raise ImportRefused(
            _("The header can't be read: %(what)s.") % {"what": _not_csv(wrong)}
        ) from None
    if lines.too_long:
        raise ImportRefused(
            _("The header can't be read: %(what)s.") % {"what": too_long(lines)}
        )
    names = [shown(name.strip()) for name in header or ()]
    if len(names) > MAX_COLUMNS:
        raise ImportRefused(
            _("The header has %(count)d columns; at most %(most)d are read.")
            % {"count": len(names), "most": MAX_COLUMNS}
        )
    lowered = [name.lower() for name in names]
    # A column is found whatever its case, unless two differ only by that.
    names = [
        low if lowered.count(low) == 1 else name
        for name, low in zip(names, lowered, strict=True)
    ]
    told = {"names": shown(", ".join(names))[:200]}
    if names and needs and lowered.count(needs) != 1:
        raise ImportRefused(
            _(
                "A CSV file needs one column named “%(needs)s”; the header has: %(names)s."
            )
            % {"needs": needs, **told}
        )
    doubled = {name for name in names if name and names.count(name) > 1}
    if doubled and not needs:
        raise ImportRefused(
            _(
                "Two columns of the CSV file have the same name; the header has: %(names)s."
            )
            % told
        )
    return names


def _record(names: list[str], record: list[str], needs: str) -> Row:
    if needs and len(record) <= names.index(needs):
        raise BadRow(
            _("has %(count)d columns, none for “%(needs)s”; check commas and quotes")
            % {"count": len(record), "needs": needs}
        )
    if any(value.strip() for value in record[len(names) :]):
        # A comma outside quotes has cut a text in two.
        raise BadRow(
            _("has %(count)d columns, the header %(width)d; put the text in quotes")
            % {"count": len(record), "width": len(names)}
        )
    row: Row = dict(zip(names, record, strict=False))
    for name, value in row.items():
        if any("\udc80" <= char <= "\udcff" for char in value):
            raise BadRow(
                _("“%(name)s” is not UTF-8; save the file as UTF-8")
                % {"name": shown(name)[:40]}
            )
    row.pop("", None)  # A column without a name, as a spreadsheet's index has.
    return {name: messages_in(value) for name, value in row.items()}


def messages_in(cell: str) -> str | Messages:
    """The chat messages that a cell holds as JSON, else the text as it is."""
    if not cell.startswith("[{"):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    is_chat = all(isinstance(one, dict) and "role" in one for one in value)
    return value if is_chat and depth(value) <= MAX_ROW_DEPTH else cell


def defused(text: str) -> str:
    """What no spreadsheet takes for a formula; `fused` gives the text back."""
    return f"'{text}" if _FORMULA.match(text) else text


def fused(text: str) -> str:
    return text[1:] if _DEFUSED.match(text) else text


def too_long(lines: Lines) -> BadRow:
    return BadRow(
        _("longer than %(most)d bytes; shorten or split it") % {"most": lines.longest}
    )

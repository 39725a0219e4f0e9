"""Rows of JSONL, of JSON over several lines and of CSV: (line from 1, row or what is wrong).

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
from annotation.files.faults import (
    KNOWN,
    MAX_ROW_DEPTH,
    BadRow,
    Messages,
    PythonText,
    Row,
    shown,
)
from annotation.files.lines import Damaged, Lines
from annotation.retelling import retold

TextFormat = Literal["jsonl", "json", "csv"]
Numbered = Iterator[tuple[int, Row | BadRow]]

# What a spreadsheet takes for a formula (OWASP's list), behind quotes put before it.
_DEFUSED = re.compile("'+[=+\\-@\t\r\n＝＋－＠]")
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")

# A list of objects, and one of messages as Python's str() has it, which pandas writes.
_LISTED = re.compile(r"\s*\[\s*\{")
_PYTHONS = re.compile(r"\s*\[\s*\{\s*'(?:role|content|from|value)'\s*:")
_STATED = re.compile(r"sep=([,;\t])\r?\n?", re.IGNORECASE)
_QUOTED = re.compile('"[^"]*"')
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_TO_THE_LIST = re.compile(r"\s*\[[ \t\r\n,]*")
LONGEST_WORD = 10
"""Characters that JSON reads at once: "-Infinity" and one more."""

MAX_COLUMNS = 1000
MAX_CELL = 4 * 1024 * 1024
"""Characters: a cell holds as much as a pair's whole line may, as our own `original` does."""
# Of the whole process; csv knows no other way. Nothing but an import reads CSV here, its
# lines are bounded besides, and set once at the start it changes under no reader's feet.
csv.field_size_limit(MAX_CELL)


def sniffed(lines: Lines, name: str = "") -> TextFormat:
    """By the first character that isn't white: { JSONL, [ a JSON list; else by the file's
    name, as its first line may be broken; else CSV. `{` alone on its line begins JSON over
    several lines, see `_jsonl_rows`."""
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
        if format == "jsonl":
            yield from _jsonl_rows(lines)
        elif format == "json":
            yield from _objects(lines, "", lines.number + 1, is_list=True)
        else:
            yield from _csv_rows(lines, needs)
    except Damaged as damaged:
        yield lines.number + 1, BadRow(str(damaged))


def _jsonl_rows(lines: Lines) -> Numbered:
    is_first = True
    for line in lines:
        number = lines.number
        if number in lines.too_long:
            yield number, too_long(lines)
        elif is_first and line.strip() == b"{":
            # No row is that: objects over several lines each, as printed for the eye.
            yield from _objects(lines, line.decode(), number, is_list=False)
            return
        elif line.strip():
            is_first = False
            try:
                yield number, parsed(line)
            except BadRow as bad:
                yield number, bad


def _objects(lines: Lines, text: str, line: int, *, is_list: bool) -> Numbered:
    """Objects of one list, or one after another; `text` is what was read of them, `line`
    where it stands. One of them and a piece of the file are in memory at a time.

    One that is no JSON ends them: there is no telling where the next begins. What else is
    wrong with one is found once it is read, and the next ones are read on.
    """
    faults: list[BadRow] = []
    decoder = json.JSONDecoder(
        object_pairs_hook=_noted(unique, faults), parse_int=_noted(int, faults)
    )
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    at, between = 0, _TO_THE_LIST if is_list else _BETWEEN
    for chunk in _ended(lines.chunks()):
        text, at = text[at:] + decode(chunk, not chunk), 0
        while found := between.match(text, at):
            line += text.count("\n", at, found.end())
            at, between = found.end(), _BETWEEN
            if at == len(text):
                break
            if is_list and text[at] == "]":
                if text[at + 1 :].strip():
                    yield line, BadRow(_("goes on after the list's end; remove that"))
                return
            faults.clear()
            try:
                row, end = decoder.raw_decode(text, at)
            except (RecursionError, ValueError) as wrong:
                is_cut = bool(chunk) and _may_be_cut_off(wrong, len(text))
                if is_cut and len(text) - at <= lines.longest:
                    break
                yield line, _ended_by(too_long(lines) if is_cut else _not_json(wrong))
                return
            if end == len(text) and chunk:
                break  # A number may go on.
            bad = _undecoded(text[at:end]) or next(iter(faults), None)
            yield line, bad or _object(row)
            line += text.count("\n", at, end)
            at = end
    if is_list:
        yield line, BadRow(_("the list has no end; the file may be cut off"))


def _may_be_cut_off(wrong: Exception, end: int) -> bool:
    """Whether more of the text could mend it: it ends within a string, or a few
    characters after the fault."""
    if not isinstance(wrong, json.JSONDecodeError):
        return False
    return wrong.msg.startswith("Unterminated") or end - wrong.pos < LONGEST_WORD


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


def _ended_by(bad: BadRow) -> BadRow:
    return BadRow(
        _("%(what)s; what follows it can't be read; fix it, or write JSONL instead")
        % {"what": bad}
    )


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
            % {"what": retold(wrong.msg.removesuffix(" at")), "place": wrong.colno}
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
            _("“%(name)s” appears twice; keep one of them")
            % {"name": shown(twice)[:40]}
        )
    return row


def _csv_rows(lines: Lines, needs: str) -> Numbered:
    # What isn't UTF-8 becomes lone surrogates, found again in the record they are in.
    # Strict: a quote that is never closed is told, else it would swallow what follows.
    text = (line.decode("utf-8", "surrogateescape") for line in lines)
    header, delimiter = _begin(text)
    # What was passed over before the header counts as lines.
    whole = chain(repeat("\n", lines.number - 1), [header], text)
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
            told = _not_csv(wrong)
            # The reader stands inside the cell then: its other lines would be records.
            is_over = "field larger than field limit" in str(wrong)
            if is_over:
                told = _("%(what)s; what follows can't be told apart") % {"what": told}
            yield start, BadRow(told)
            if is_over:
                return
            continue
        if any(n in lines.too_long for n in range(start, reader.line_num + 1)):
            yield start, too_long(lines)
        elif any(value.strip() for value in record):
            try:
                yield start, _record(names, [read(cell) for cell in record], needs)
            except BadRow as bad:
                yield start, bad


def _begin(text: Iterator[str]) -> tuple[str, str]:
    """(the header's first line, what stands between its columns).

    Between them is what a line `sep=;` (Excel's word) says, else that of comma, semicolon
    (spreadsheets write it where the comma is the decimal point) and tab which leaves most
    names that are known here, then the commonest.
    """
    stated = None
    for line in text:
        if stated is None and (said := _STATED.fullmatch(line)):
            stated = said[1]
        elif line.strip():
            header = _QUOTED.sub(_inside, line)
            return line, stated or max(",;\t", key=partial(_fit, header))
    return "", ","


def _inside(quoted: re.Match[str]) -> str:
    """A quoted name without what could be taken for its end."""
    return re.sub('[",;\t]', "", quoted[0])


def _fit(header: str, delimiter: str) -> tuple[int, int]:
    names = {name.strip().lower() for name in header.split(delimiter)}
    return len(names & KNOWN), header.count(delimiter)


def _not_csv(wrong: csv.Error) -> str:
    if str(wrong).startswith("new-line character"):  # Python's word for a lone CR.
        return cr_alone()
    return _("not CSV: %(what)s; check the quotes") % {"what": retold(str(wrong))}


def cr_alone() -> str:
    return _(
        "its lines end with CR alone; save the file with LF or CRLF as line endings"
    )


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
    """The chat messages that a cell holds as JSON, else the text as it is; as PythonText
    where it is messages as Python writes them."""
    if not _LISTED.match(cell):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        is_pythons = _PYTHONS.match(cell) and cell.rstrip().endswith("]")
        return PythonText(cell) if is_pythons else cell
    is_chat = all(isinstance(one, dict) and _is_message(one) for one in value)
    return value if is_chat and depth(value) <= MAX_ROW_DEPTH else cell


def _is_message(one: Row) -> bool:
    return "role" in one or one.keys() == {"from", "value"}  # LLaMA-Factory's.


def defused(text: str) -> str:
    """What no spreadsheet takes for a formula; `fused` gives the text back."""
    return f"'{text}" if _FORMULA.match(text) else text


def fused(text: str) -> str:
    return text[1:] if _DEFUSED.match(text) else text


def too_long(lines: Lines) -> BadRow:
    return BadRow(
        _("longer than %(most)d bytes; shorten or split it") % {"most": lines.longest}
    )

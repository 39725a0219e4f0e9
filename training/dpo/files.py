"""Small helpers for files that must survive a crash: atomic writes, fsync, hashes.

Leaves out what goes into the files; see `status.py`, `checkpoint.py`, `run.py`.
"""

import contextlib
import hashlib
import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from training.dpo.errors import TrainerError


def fsync_path(path: Path) -> None:
    """Flush a file's or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file that is written to `path`, on the disk when this returns."""
    fsync_path(temporary)
    os.replace(temporary, path)
    fsync_path(path.parent)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace `path` in one rename, so that a reader sees the old or the new text.

    `durable=False` leaves out fsync: for files rewritten many times a minute.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        fsync_path(path.parent)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """`write_text` of readable JSON; NaN is refused because no other reader takes it."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(path, text + "\n", durable)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """`write_text` of one JSON object a line."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(path, "".join(line + "\n" for line in lines))


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file holding one JSON object, or raise TrainerError saying where it breaks.

    A key given twice in one object is an error too: of settings, one would be lost.
    """

    def as_object(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in members:
            if key in found:
                raise TrainerError(f'{path.name} gives "{key}" twice; leave one.')
            found[key] = value
        return found

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    value = _parsed(raw.removeprefix(BOM_UTF8), path.name, as_object)
    if not isinstance(value, dict):
        raise TrainerError(f"{path.name} must hold one JSON object {{…}}.")
    return value


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of every line that is not blank.

    Raises TrainerError naming file and line for a line that is not JSON.
    """
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                text = raw.removeprefix(BOM_UTF8) if number == 1 else raw
                if text.strip():
                    yield number, _parsed(text, f"{path.name} line {number}")
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> TrainerError:
    if isinstance(error, FileNotFoundError):
        return TrainerError(f"{path.name} is missing from {path.parent}.")
    why = error.strerror or type(error).__name__
    return TrainerError(f"{path.name} in {path.parent} cannot be read: {why}.")


def _parsed(raw: bytes, where: str, as_object: Any = None) -> Any:
    """The JSON value in `raw`; `as_object` makes its objects of their members."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=as_object)
        if b"\\ud" in raw.lower():
            # Half of a surrogate pair is JSON, but no character that can be encoded.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeDecodeError:
        why = "is not UTF-8 text; save it as UTF-8"
    except UnicodeEncodeError:
        why = "holds half of a surrogate pair (\\ud…), which is no character"
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.doc.count("\n") > 1 else ""
        why = f"is not valid JSON ({place}column {error.colno}: {error.msg})"
    except RecursionError:
        why = "nests lists or objects too deeply"
    except ValueError as error:
        why = f"is not valid JSON ({error})"  # a number of thousands of digits
    raise TrainerError(f"{where} {why}.")


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Small helpers for files that must survive a crash: atomic writes, fsync, hashes.

Leaves out what goes into the files; see `status.py`, `checkpoint.py`, `run.py`.
"""

import hashlib
import json
import os
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


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Replace `path` in one rename, so that a reader sees the old or the new text.

    `durable=False` leaves out fsync: for files rewritten many times a minute.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
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
    """Read a file holding one JSON object, or raise TrainerError saying where it breaks."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise TrainerError(f"{path.name} is missing from {path.parent}.") from None
    except UnicodeDecodeError:
        raise TrainerError(
            f"{path.name} is not UTF-8 text; save it as UTF-8."
        ) from None
    except json.JSONDecodeError as error:
        raise TrainerError(
            f"{path.name} is not valid JSON at line {error.lineno}, column"
            f" {error.colno}: {error.msg}."
        ) from None
    if not isinstance(value, dict):
        raise TrainerError(f"{path.name} must hold one JSON object {{…}}.")
    return value


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of every line that is not blank.

    Raises TrainerError naming file and line for a line that is not JSON.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield number, json.loads(line)
            except UnicodeDecodeError:
                raise TrainerError(
                    f"{path.name} line {number} is not UTF-8 text; save it as UTF-8."
                ) from None
            except json.JSONDecodeError as error:
                raise TrainerError(
                    f"{path.name} line {number} is not valid JSON (column"
                    f" {error.colno}: {error.msg}); each line must be one object."
                ) from None


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

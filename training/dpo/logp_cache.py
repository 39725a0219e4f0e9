"""Log-probs of answers on disk, found again by what they depend on.

    FOLDER/lock                        one writer at a time, readers together
    FOLDER/0f3a…/about.json            what this context is; its mtime: last used
    FOLDER/0f3a…/00000001.safetensors  a segment: keys, ends, checks, logps

A context is everything but the tokens (weights, dtype, machine, kernels), a key the
tokens of one prompt and answer, its value one float32 for each scored answer token.
Segments are written whole and renamed, never changed; what was stored first stays, so
every reader gets the same value. A damaged row or file counts as absent. Any part may be
deleted at any time: it is computed again. Leaves out what a log-prob is; see
`reference.py`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from training.dpo.files import put_in_place, write_json

Values = np.ndarray[Any, np.dtype[np.float32]]

KEY_BYTES = 16

MOST_SEGMENTS = 24
"""Small segments of a context before they are merged into one."""

SMALL_BYTES = 64 << 20
"""A segment beyond this size is merged no more: merging reads it whole."""

MOST_BYTES = 8 << 30
"""Of all contexts together: room for some seven million answers of 300 tokens. Beyond
it, the contexts longest unused are deleted."""


def answer_key(prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> bytes:
    """The key of an answer to a prompt, both as token ids."""
    ids = np.asarray([len(prompt_ids), *prompt_ids, *answer_ids], dtype="<i8")
    return hashlib.sha256(ids.data).digest()[:KEY_BYTES]


class LogpCache:
    """The cached log-probs of one context, in a folder that contexts share."""

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        """`about` is the context: what the log-probs depend on besides the tokens."""
        self.about = dict(sorted(about.items()))
        self.name = hashlib.sha256(repr(self.about).encode()).hexdigest()[:32]
        self.root = folder
        self.folder = folder / self.name

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Values]:
        """{key: log-probs (tokens,)} of those that are there and undamaged."""
        if not self.folder.is_dir():
            return {}
        with _locked(self.root, fcntl.LOCK_SH):
            with contextlib.suppress(OSError):
                os.utime(self.folder / "about.json")
            return self._find(set(keys))

    def add(self, rows: Mapping[bytes, Values]) -> dict[bytes, Values]:
        """Store rows; what counts from now on: of a key already there, what is there.

        Durable when it returns. Raises OSError if the disk refuses; nothing is then
        half-written.
        """
        if not rows:
            return {}
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.root, fcntl.LOCK_EX):
            self.folder.mkdir(exist_ok=True)  # another process may have pruned it
            _drop_leftovers(self.folder)
            known = self._find(set(rows))
            new = {key: value for key, value in rows.items() if key not in known}
            if new:
                write_json(self.folder / "about.json", self.about)
                self._write_segment(new)
                self._merge()
                prune(self.root, MOST_BYTES, spare=self.name)
        return {**rows, **known}

    def _find(self, wanted: set[bytes]) -> dict[bytes, Values]:
        found: dict[bytes, Values] = {}
        for path in _segments(self.folder):
            for key, value in _rows_of(path, wanted):
                found.setdefault(key, value)
        return found

    def _write_segment(self, rows: Mapping[bytes, Values]) -> Path:
        numbers = [int(path.stem) for path in _segments(self.folder)]
        final = self.folder / f"{max(numbers, default=0) + 1:08d}.safetensors"
        temporary = self.folder / f"tmp-{final.name}"
        values = [np.asarray(value, dtype=np.float32) for value in rows.values()]
        checks = [_check(key, value) for key, value in zip(rows, values, strict=True)]
        tensors = {
            "keys": np.frombuffer(b"".join(rows), dtype=np.uint8),
            "ends": np.cumsum([len(value) for value in values], dtype=np.int64),
            "checks": np.asarray(checks, dtype=np.int64),
            "logps": np.concatenate(values),
        }
        save_file({n: torch.tensor(array) for n, array in tensors.items()}, temporary)
        put_in_place(temporary, final)
        return final

    def _merge(self) -> None:
        """Many small segments become one; what is damaged in them goes."""
        parts = [p for p in _segments(self.folder) if p.stat().st_size < SMALL_BYTES]
        if len(parts) <= MOST_SEGMENTS:
            return
        rows: dict[bytes, Values] = {}
        for path in parts:
            for key, value in _rows_of(path, None):
                rows.setdefault(key, value)
        self._write_segment(rows)
        for path in parts:
            path.unlink()


def prune(root: Path, most_bytes: int, spare: str) -> None:
    """Delete the contexts longest unused until the rest fit; never the one named
    `spare`. Call it with the lock held."""
    contexts = [path for path in root.iterdir() if (path / "about.json").is_file()]
    sizes = {
        path: sum(file.stat().st_size for file in path.iterdir()) for path in contexts
    }
    total = sum(sizes.values())
    for path in sorted(contexts, key=lambda p: (p / "about.json").stat().st_mtime):
        if total > most_bytes and path.name != spare:
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


@contextlib.contextmanager
def _locked(root: Path, how: int) -> Iterator[None]:
    """Hold the folder's lock; the kernel drops it when its holder dies."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _segments(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.safetensors") if p.stem.isdigit())


def _drop_leftovers(folder: Path) -> None:
    """What a writer that was killed left half-written."""
    for path in folder.glob("tmp-*"):
        path.unlink()


def _rows_of(path: Path, wanted: set[bytes] | None) -> Iterator[tuple[bytes, Values]]:
    """The undamaged rows of a segment, all or the wanted ones, as copies."""
    try:
        # Mapped, not read: only the pages of wanted rows come from the disk.
        tensors = load_file(path)
        keys, ends, checks, logps = (
            tensors[name].numpy() for name in ("keys", "ends", "checks", "logps")
        )
    except (OSError, SafetensorError, KeyError):
        return
    names, start = keys.tobytes(), 0
    for row, (end, check) in enumerate(
        zip(ends.tolist(), checks.tolist(), strict=False)
    ):
        key = names[row * KEY_BYTES : (row + 1) * KEY_BYTES]
        if wanted is None or key in wanted:
            value = logps[max(start, 0) : end].copy()
            if _check(key, value) == check:
                yield key, value
        start = end


def _check(key: bytes, value: Values) -> int:
    return zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data, zlib.crc32(key))

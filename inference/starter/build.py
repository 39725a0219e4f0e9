"""Builds the starter model into a folder, once, whole or not at all.

Works in a `tmp-` folder beside the target and renames it when everything is
written, so a killed build leaves nothing that looks finished. Leaves out the
training itself (`train`) and the command line (`__main__`).
"""

import fcntl
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inference.starter.chats import ASKED_LISTS, STYLE_SHARES, Message, write_chats
from inference.starter.topics import LANGUAGES, all_topics, data_files

MARKER = "COMPLETE"
NEEDED_BYTES = 64 * 2**20
QUIET_SECONDS = 10.0


class BuildError(Exception):
    """Something a person can put right; the message is one sentence."""


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a finished build whose files are undamaged."""
    try:
        return (folder / MARKER).read_text().strip() == folder_hash(folder)
    except OSError:
        return False


def folder_hash(folder: Path) -> str:
    """sha256 over the names and contents of all files but the marker."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != MARKER:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.name}\0{content}\n".encode())
    return digest.hexdigest()


def build(folder: Path, **changes: int | float) -> str:
    """Makes the model unless it is there; returns the folder's sha256.

    `changes` replace fields of `train.Recipe` (the tests build miniatures).
    Raises BuildError where a person has to act (disk full, no permission).
    """
    if is_complete(folder):
        return folder_hash(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder):
            if not is_complete(folder):
                _build_in_place_of(folder, changes)
    except OSError as error:
        raise BuildError(_explain(folder, str(error))) from error
    return folder_hash(folder)


def _build_in_place_of(folder: Path, changes: dict[str, int | float]) -> None:
    prefix = f"tmp-{folder.name}-"
    for left_over in folder.parent.glob(prefix + "*"):
        shutil.rmtree(left_over)
    if shutil.disk_usage(folder.parent).free < NEEDED_BYTES:
        raise BuildError(_explain(folder, "No space left"))
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        _write_model(work, changes)
        work.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_model(work: Path, changes: dict[str, int | float]) -> None:
    # Imported here so that the check for a finished build stays instant.
    import torch
    from safetensors import SafetensorError
    from tqdm import tqdm
    from transformers import GenerationConfig

    from inference.starter import train
    from inference.starter.tokens import train_tokenizer

    recipe = train.Recipe(**changes)  # type: ignore[arg-type]
    torch.set_num_threads(train.THREADS)
    chats = list(write_chats(recipe.seed, recipe.chats_per_topic))
    texts = [message["content"] for chat in chats for message in chat]
    tokenizer = train_tokenizer(texts, recipe.vocab_size, recipe.context)
    model = train.new_model(recipe, tokenizer)
    bar = tqdm(
        total=recipe.steps,
        desc="starter model",
        unit="step",
        file=sys.stderr,
        # In a log file every refresh stays.
        mininterval=0.1 if sys.stderr.isatty() else QUIET_SECONDS,
    )

    def show(step: int, loss: float) -> None:
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.update()

    with bar:
        loss = train.train_model(
            model, _batches(train, recipe, tokenizer, chats), recipe, show
        )
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=256,
    )
    try:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work, save_jinja_files=False)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    facts = {
        "recipe": recipe.facts(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": round(loss, 4),
        "chats": len(chats),
        "topics": len(all_topics()) // len(LANGUAGES),
        "languages": list(LANGUAGES),
        "style_shares": STYLE_SHARES,
        "asked_lists": ASKED_LISTS,
        "tables_sha256": _tables_hash(),
        "weights_sha256": _file_hash(work / "model.safetensors"),
    }
    _write_synced(work / "starter.json", json.dumps(facts, indent=2) + "\n")
    _write_synced(work / MARKER, folder_hash(work) + "\n")


def _batches(train, recipe, tokenizer, chats: list[list[Message]]) -> Iterator[dict]:  # type: ignore[no-untyped-def]
    """Endless batches; each pass over the chats is packed and mixed anew."""
    rng = random.Random(recipe.seed)
    encoded = [train.encode_chat(tokenizer, chat) for chat in chats]
    while True:
        rows = list(train.pack_rows(encoded, recipe.row_length))
        rng.shuffle(rows)
        for start in range(0, len(rows) - recipe.rows + 1, recipe.rows):
            batch = rows[start : start + recipe.rows]
            yield train.make_batch(batch, tokenizer.pad_token_id)
        rng.shuffle(encoded)


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Holds the lock beside the target; a second build waits for the first."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another build of this model is running; waiting.", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tables_hash() -> str:
    digest = hashlib.sha256()
    for path in data_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _explain(folder: Path, reason: str) -> str:
    if "no space left" in reason.lower():
        return (
            f"The disk that holds {folder.parent} is full: free"
            f" {NEEDED_BYTES // 2**20} MB there and build the starter model again."
        )
    return f"The starter model could not be written to {folder}: {reason}."

"""Policy 0: where the base model lies and what it is called.

MODEL is a folder or a hub id; empty means the starter model. Never imports torch or
transformers: it reads files. Serving the base is vLLM's work, see server.py.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from inference.errors import InferenceError
from inference.faults import told
from inference.models import Policy

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
"""What is fetched from a hub: no pickled weights, no code."""


def ensure_base(fetch: bool = False) -> Policy:
    """The row of the base that MODEL names now; made at the first call.

    A base keeps its row wherever its folder moves: its name is a hash of its files.
    `fetch` allows a hub id to be fetched, which may take long: not within a request.
    Raises InferenceError saying what to do when there is no model.
    """
    folder = base_folder(fetch)
    digest = base_sha256(folder)
    policy, _created = Policy.objects.get_or_create(
        name=f"policy-0000-{digest[:8]}",
        defaults={"number": 0, "base_model": str(folder), "base_sha256": digest},
    )
    if policy.base_model != str(folder):
        Policy.objects.filter(pk=policy.pk).update(base_model=str(folder))
        policy.base_model = str(folder)
    return policy


def is_starter(base: Policy) -> bool:
    """Whether it is the model that the project makes itself: its build leaves a file."""
    return (Path(base.base_model) / "starter.json").is_file()


def base_folder(fetch: bool = False) -> Path:
    """The folder of the base model; a hub id's is in the hub's cache, or fetched."""
    if not settings.MODEL:
        folder = settings.MODELS_DIR / "starter"
        missing = _("There is no starter model: run manage.py build_starter_model.")
    elif (folder := Path(settings.MODEL).expanduser()).exists():
        missing = _("MODEL names %(folder)s, which holds no config.json.") % {
            "folder": folder
        }
    elif HUB_ID.fullmatch(settings.MODEL):
        return _snapshot(settings.MODEL, fetch)
    else:
        raise InferenceError(
            _("MODEL is %(model)s: neither a folder here nor a hub id (owner/name).")
            % {"model": settings.MODEL},
            permanent=True,
        )
    if not (folder / "config.json").is_file():
        raise InferenceError(missing, permanent=True)
    return folder.resolve()


def _snapshot(hub_id: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        # What is here already is used as it is: a base must not change under a project.
        folder = Path(snapshot_download(hub_id, local_files_only=True))
        if _is_complete(folder):
            return folder
    if not fetch:
        raise InferenceError(
            _("The model %(model)s is not here yet: run manage.py fetch_model.")
            % {"model": hub_id}
        )
    try:
        return Path(snapshot_download(hub_id, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InferenceError(
            _(
                "The model %(model)s is not on this machine and could not be fetched "
                "(%(reason)s). Check the name and the network, or set MODEL to a folder."
            )
            % {"model": hub_id, "reason": told(error).partition("\n")[0][:200]},
            permanent=True,
        ) from error


def _is_complete(folder: Path) -> bool:
    """False for what an interrupted fetch left."""
    if not (folder / "config.json").is_file() or not weight_files(folder):
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return True
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return all((folder / shard).is_file() for shard in shards)


def base_config(folder: str | Path) -> dict[str, Any]:
    """The model's config.json, of a multimodal one the part of the language model.

    Raises InferenceError where it is no JSON object.
    """
    file = Path(folder) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return config.get("text_config") or config
    except (OSError, ValueError, AttributeError) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> InferenceError:
    """What is wrong where a file of the base model was cut off, for example."""
    return InferenceError(
        _("%(file)s of the base model cannot be read: %(error)s")
        % {"file": file.name, "error": told(error)},
        permanent=True,
    )


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model folder, sorted by name."""
    return sorted(Path(folder).glob("*.safetensors"))


def base_sha256(folder: Path) -> str:
    """sha256 of config.json and the weights; remembered by path, size and time.

    Raises InferenceError for a folder without safetensors: pickled weights run code.
    """
    files = [folder / "config.json", *weight_files(folder)]
    if len(files) == 1:
        raise InferenceError(
            _(
                "The model in %(folder)s has no safetensors weights; others are not read."
            )
            % {"folder": folder},
            permanent=True,
        )
    stamp = [
        [file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files
    ]
    cache_file = settings.DATA_DIR / "base_hashes.json"
    cache = _read_cache(cache_file)
    known = cache.get(str(folder))
    if known and known["stamp"] == stamp:
        return known["sha256"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    write_atomically(
        cache_file,
        json.dumps(
            cache | {str(folder): {"stamp": stamp, "sha256": digest.hexdigest()}},
            indent=1,
        ),
    )
    return digest.hexdigest()


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old text or the new, never half."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(name, path)


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}

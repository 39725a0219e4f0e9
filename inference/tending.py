"""What a live vLLM server needs before it counts as ready, and to stay so.

Names and adapters live in vLLM's memory only, so after each of its restarts they are
given back from the database. Promotion itself is in policies.py.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from inference.adapters import FILES
from inference.base import write_atomically
from inference.canary import check_canary, read_canary
from inference.errors import AdapterRefused, InferenceError
from inference.faults import told
from inference.models import Channel, Deployment, Policy
from inference.queries import recent_policies
from inference.rendering_check import CHATS
from inference.server import serving_dtype
from inference.vllm import VLLMClient
from inference.vllm_process import PARENT

logger = logging.getLogger(__name__)

GRACE = timedelta(minutes=10)
"""A policy that no longer serves stays loaded at least this long: requests finish."""

LONGEST_CHECK = 120.0
"""Seconds that the trainer's rendering of a few chats may take."""


def check_base(client: VLLMClient, base: Policy) -> None:
    """Raises InferenceError unless the server answers as `base`, log-probs included.

    The first request with log-probs is also the slow one: it warms the server up.
    """
    names = client.models()
    if base.name not in names:
        raise InferenceError(
            _(
                "It serves %(names)s, not %(base)s: start it with --served-model-name %(base)s."
            )
            % {"names": ", ".join(names) or _("nothing"), "base": base.name}
        )
    sampling = {"temperature": 1.0, "max_tokens": 2}
    client.chat(base.name, CHATS[0], 2, 1, sampling)


def load_policy(client: VLLMClient, policy: Policy, base: Policy) -> None:
    """Load an adapter and check that the server now serves what was trained.

    Loaded already changes nothing. Raises AdapterRefused (the policy is to blame; it is
    unloaded again) or InferenceError (the server is).
    """
    client.load_adapter(policy.name, str(policy.adapter_path))
    try:
        if policy.name not in client.models():
            raise InferenceError(_("vLLM took the adapter but does not list it."))
        canary = read_canary(policy.adapter_path / "canary.json")
        check_canary(client, policy.name, base.name, canary, serving_dtype(base))
    except AdapterRefused:
        client.unload_adapter(policy.name)
        raise


@dataclass(frozen=True)
class GivenUp:
    """A policy that a server can't be given back, and why, for as long as its files stay
    as they were."""

    files: tuple[tuple[int, int], ...]
    why: str


def restore_adapters(
    client: VLLMClient, base: Policy, given_up: dict[str, GivenUp], check_again: bool
) -> dict[str, str]:
    """Load what must be there and is missing; unload what is long out of use.

    `check_again` asks the canary also of serving policies that are loaded already.
    A policy whose own files or answers are wrong is logged, noted in `given_up` and left
    out: it blocks nobody else. Those of them that serve are returned, {name: why}.
    Raises InferenceError where it is the server that can't restore a policy that serves.
    """
    loaded = set(client.models())
    wanted: set[str] = set()
    refused: dict[str, str] = {}
    # Any other channel has only ever served the base, which is always there.
    has_flipped = Exists(Deployment.objects.filter(channel=OuterRef("pk")))
    channels = Channel.objects.select_related("serving").filter(
        has_flipped | Q(serving__number__gt=0), serving__base_sha256=base.base_sha256
    )
    for channel in channels:
        for policy in recent_policies(channel):
            serves = policy.pk == channel.serving_id
            done = policy.name in wanted or (
                policy.name in loaded and not (serves and check_again)
            )
            wanted.add(policy.name)
            if not done:
                _restore(client, policy, base, serves, given_up)
            if serves and policy.name in given_up:
                refused[policy.name] = given_up[policy.name].why
    for policy in _out_of_use(loaded - wanted):
        client.unload_adapter(policy.name)
        logger.info("%s served long ago and is unloaded", policy.name)
    return refused


def _restore(
    client: VLLMClient,
    policy: Policy,
    base: Policy,
    serves: bool,
    given_up: dict[str, GivenUp],
) -> None:
    files, why = _files(policy)
    if policy.name in given_up and given_up[policy.name].files == files:
        return
    try:
        if not why:
            load_policy(client, policy, base)
    except AdapterRefused as error:
        why = str(error)
    except InferenceError as error:
        if serves:
            raise InferenceError(
                _("%(policy)s could not be restored: %(error)s")
                % {"policy": policy.name, "error": error}
            ) from error
        why = str(error)
    if why:
        given_up[policy.name] = GivenUp(files, why)
        logger.warning("%s is not loaded again: %s", policy.name, why)
    else:
        given_up.pop(policy.name, None)
        logger.info("%s is loaded and checked on %s", policy.name, client.url)


def _files(policy: Policy) -> tuple[tuple[tuple[int, int], ...], str]:
    """(size and time of each of its files, what is wrong); the former empty where one is
    gone."""
    try:
        found = [(policy.adapter_path / name).stat() for name in FILES]
    except OSError as error:
        return (), _("Its files are gone: %(error)s") % {"error": told(error)}
    return tuple((file.st_size, file.st_mtime_ns) for file in found), ""


def _out_of_use(names: set[str]) -> list[Policy]:
    """Those that served once and have not been staged, or flipped to or from, lately.

    A candidate is never among them: it may be in the middle of its promotion.
    """
    since = timezone.now() - GRACE
    recently = Deployment.objects.filter(at__gt=since)
    recent_ids = {
        pk
        for ids in recently.values_list("policy_id", "previous_id")
        for pk in ids
        if pk
    }
    found = Policy.objects.filter(name__in=names, number__gt=0)
    found = found.filter(Q(staged_at=None) | Q(staged_at__lte=since))
    served = found.filter(deployments__isnull=False).distinct()
    return [policy for policy in served if policy.pk not in recent_ids]


class RenderingCheck:
    """Compares vLLM's rendering of chats with the trainer's; the latter is remembered.

    The trainer's side takes a process of some seconds, begun while vLLM starts.
    """

    def __init__(self, folder: Path) -> None:
        self._file = settings.DATA_DIR / "renderings" / f"{_fingerprint(folder)}.json"
        self._process: subprocess.Popen[str] | None = None
        if not self._file.exists():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "inference.rendering_check", str(folder)],
                cwd=settings.BASE_DIR,
                env={**os.environ, "HF_HUB_OFFLINE": "1", PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def difference(self, client: VLLMClient) -> str:
        """A warning for people, or "" if both render every chat alike."""
        trainers = self._trainers()
        if trainers is None:
            return _(
                "The trainer's tokenizer could not be read, so renderings of chats could not be compared."
            )
        for chat, expected in zip(CHATS, trainers, strict=True):
            try:
                served = client.tokenize(chat)
            except InferenceError as error:
                if not error.permanent:
                    raise
                served = None
            if served != expected:
                return _(
                    "vLLM and the trainer render the chat “%(chat)s” into different tokens "
                    "(%(served)s and %(expected)s): training would not fit what is served. "
                    "Check the model's chat template."
                ) % {
                    "chat": chat[-1]["content"].strip(),
                    "served": _shown(served, expected),
                    "expected": _shown(expected, served),
                }
        return ""

    def _trainers(self) -> list[list[int] | None] | None:
        if self._process is not None:
            try:
                out, err = self._process.communicate(timeout=LONGEST_CHECK)
            except subprocess.TimeoutExpired:
                self._process.kill()
                out, err = self._process.communicate()
                err += f"\nended after {LONGEST_CHECK} s"
            failed = self._process.returncode != 0
            self._process = None
            if failed:
                logger.error("The rendering check failed:\n%s", err)
                return None
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, out)
        if not self._file.exists():
            return None
        return json.loads(self._file.read_text(encoding="utf-8"))


def _fingerprint(folder: Path) -> str:
    """Of all that decides how the trainer renders a chat."""
    digest = hashlib.sha256(version("transformers").encode())
    digest.update(json.dumps(CHATS).encode())
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in (".json", ".jinja", ".txt", ".model"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _shown(ids: list[int] | None, other: list[int] | None) -> str:
    """The ids from shortly before the first that differs."""
    if ids is None:
        return _("refused")
    both = enumerate(zip(ids, other or [], strict=False))
    start = next((i for i, (a, b) in both if a != b), min(len(ids), len(other or [])))
    return f"…{ids[max(0, start - 2) : start + 4]}…"

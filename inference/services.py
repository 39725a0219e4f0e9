"""Channels, and answers sampled from the policy of one.

Which policy serves is changed in policies.py; servers are watched in supervisor.py.
"""

import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from django.conf import settings
from django.utils.translation import gettext as _

from inference.base import ensure_base, is_starter
from inference.errors import AdapterRefused, IdenticalAnswers, InferenceError
from inference.models import Channel, Policy, Replica
from inference.replicas import client_of, is_ready, replicas, set_wanted, wait_until
from inference.sampling import SamplingParams
from inference.tending import load_policy
from inference.vllm import Messages, VLLMClient

logger = logging.getLogger(__name__)

__all__ = [
    "Sampled",
    "count_tokens",
    "create_channel",
    "ensure_base",
    "generate_pair",
    "is_starter",
    "sample",
    "servers_for",
    "set_wanted",
    "wait_until",
]

PAIR_ATTEMPTS = 4
"""How often a pair is sampled before its answers count as identical."""


@dataclass(frozen=True)
class Sampled:
    """One answer, and everything needed to sample it again or to train on it."""

    policy: Policy
    text: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    """Of token_ids, nats, under the policy, before temperature and top_p."""
    finish_reason: str
    seed: int | None
    """Alone it gives this very answer again; null where seeds are off."""
    sampling: dict[str, Any]


def create_channel(slug: str) -> Channel:
    """A new channel that serves the base; the one of that slug if there is one."""
    channel, _created = Channel.objects.get_or_create(
        slug=slug, defaults={"serving": ensure_base()}
    )
    return channel


def sample(
    policy: Policy,
    messages: Messages,
    n: int,
    sampling: SamplingParams,
    servers: Sequence[Replica] | None = None,
) -> list[Sampled]:
    """n answers from `policy` in one request. Raises InferenceError."""
    # Choice i is sampled with seed + i: random 62 bits keep requests apart.
    seed = secrets.randbits(62) if settings.SAMPLING_SEEDS else None
    answer = _on_a_server(
        policy,
        servers_for(policy) if servers is None else servers,
        lambda client: client.chat(policy.name, messages, n, seed, sampling.as_dict()),
    )
    return [
        Sampled(
            policy=policy,
            text=choice.text,
            prompt_token_ids=answer.prompt_token_ids,
            token_ids=choice.token_ids,
            logprobs=choice.logprobs,
            finish_reason=choice.finish_reason,
            seed=None if seed is None else seed + i,
            sampling=sampling.as_dict(),
        )
        for i, choice in enumerate(answer.choices)
    ]


def generate_pair(
    policy: Policy,
    messages: Messages,
    sampling: SamplingParams,
    servers: Sequence[Replica] | None = None,
) -> tuple[Sampled, Sampled]:
    """Two different answers of one policy, from one request.

    `servers`: of `servers_for`, where many are asked at once; else those of now.

    Answers are the same if their texts are, leading and trailing space aside. Raises
    IdenticalAnswers if they stay the same, InferenceError if none can be had.
    """
    if sampling.temperature == 0:
        raise InferenceError(
            _("At temperature 0 both answers are the same; set it above 0."),
            permanent=True,
        )
    for _attempt in range(PAIR_ATTEMPTS):
        first, second = sample(policy, messages, 2, sampling, servers)
        if first.text.strip() != second.text.strip():
            return first, second
    raise IdenticalAnswers(
        _("%(policy)s gave the same answer %(count)d times.")
        % {"policy": policy.name, "count": 2 * PAIR_ATTEMPTS}
    )


def count_tokens(messages: Messages) -> int:
    """How many tokens a chat has, its template's included. Raises InferenceError."""
    return len(
        _on_a_server(None, servers_for(None), lambda client: client.tokenize(messages))
    )


def servers_for(policy: Policy | None) -> list[Replica]:
    """The ready servers that may serve it; None: any. InferenceError if there is none."""
    known = replicas()
    ready = [replica for replica in known if is_ready(replica)]
    if policy is not None:
        ready = _those_that_may_serve(policy, ready)
    if not ready:
        raise InferenceError(_why_none(known))
    return ready


T = TypeVar("T")


def _on_a_server(
    policy: Policy | None, servers: Sequence[Replica], ask: Callable[[VLLMClient], T]
) -> T:
    """The answer of one of them, taken by chance; of another if that one fails."""
    *others, last = random.sample(servers, len(servers))
    for replica in others:
        try:
            return _with_policy_loaded(replica, policy, ask)
        except InferenceError as error:
            if error.permanent:
                raise
            logger.warning("%s: %s Asking another server.", replica.url, error)
    return _with_policy_loaded(last, policy, ask)


def _with_policy_loaded(
    replica: Replica, policy: Policy | None, ask: Callable[[VLLMClient], T]
) -> T:
    client = client_of(replica.url)
    try:
        return ask(client)
    except InferenceError as error:
        # A server restarted a moment ago may not have every adapter back yet.
        absent = policy is not None and not policy.is_base and not error.permanent
        if policy is None or not absent or policy.name in client.models():
            raise
    assert replica.base is not None
    try:
        load_policy(client, policy, replica.base)
    except AdapterRefused as error:
        raise InferenceError(f"{policy.name}: {error}", permanent=True) from error
    return ask(client)


def _those_that_may_serve(policy: Policy, ready: list[Replica]) -> list[Replica]:
    if policy.rejected_reason:
        raise InferenceError(
            _("%(policy)s was rejected: %(reason)s")
            % {"policy": policy.name, "reason": policy.rejected_reason},
            permanent=True,
        )
    able = [r for r in ready if r.base and r.base.base_sha256 == policy.base_sha256]
    if ready and not able:
        raise InferenceError(
            _(
                "%(policy)s belongs to another base model than the one served now (MODEL)."
            )
            % {"policy": policy.name},
            permanent=True,
        )
    whole = [r for r in able if policy.name not in r.refused]
    if able and not whole:
        raise InferenceError(
            _("%(policy)s could not be restored: %(error)s")
            % {"policy": policy.name, "error": able[0].refused[policy.name]},
            permanent=True,
        )
    return whole


def _why_none(known: list[Replica]) -> str:
    if not known:
        return _("No vLLM server has been seen: start manage.py run_vllm.")
    details = "; ".join(f"{r.get_state_display()}: {r.detail}" for r in known)
    return _("No vLLM server is ready (%(details)s).") % {"details": details}

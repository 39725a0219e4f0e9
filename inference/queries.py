"""Reads over policies, channels and servers; nothing here changes anything."""

from collections.abc import Iterable

from django.conf import settings
from django.db.models import Q
from django.utils.translation import gettext as _

from inference.models import Channel, Deployment, Policy, Replica
from inference.replicas import (
    has_cpu_build,
    is_alive,
    is_ready,
    replica_urls,
    replicas,
)

KEEP_DEPLOYED = 4
"""Policies that served before and stay loaded, so that a rollback is instant."""


def serving_policy(channel: Channel) -> Policy:
    """The policy that serves now, read afresh: promotion may just have flipped it."""
    return Channel.objects.select_related("serving").get(pk=channel.pk).serving


def policy_state(policy: Policy, channel: Channel) -> str:
    """serving, candidate (never served), retired (served before) or rejected."""
    return policy_states([policy], channel)[policy.pk]


def policy_states(policies: Iterable[Policy], channel: Channel) -> dict[int, str]:
    """The state of each policy there, by its primary key, in one query."""
    deployed = set(
        Deployment.objects.filter(channel=channel).values_list("policy_id", flat=True)
    )
    states = {}
    for policy in policies:
        if channel.serving_id == policy.pk:
            states[policy.pk] = "serving"
        elif policy.rejected_reason:
            states[policy.pk] = "rejected"
        # A base serves from the first day on, without a deployment.
        elif policy.is_base or policy.pk in deployed:
            states[policy.pk] = "retired"
        else:
            states[policy.pk] = "candidate"
    return states


def channel_policies(channel: Channel) -> list[Policy]:
    """All policies that may serve there, the base first, then by number."""
    base = Q(number=0, base_sha256=serving_policy(channel).base_sha256)
    policies = Policy.objects.filter(base | Q(channel=channel))
    return list(policies.select_related("parent").order_by("number"))


def lineage(policy: Policy) -> list[Policy]:
    """The policy, what it was trained from, and so on to the base."""
    line = [policy]
    while line[-1].parent is not None:
        line.append(line[-1].parent)
    return line


def recent_policies(channel: Channel) -> list[Policy]:
    """The adapters to keep loaded: the serving one, then those that served last."""
    found = [channel.serving]
    flips = Deployment.objects.filter(channel=channel).select_related(
        "policy", "previous"
    )
    for flip in flips[: 4 * KEEP_DEPLOYED]:
        for policy in (flip.policy, flip.previous):
            if policy is not None and policy not in found:
                found.append(policy)
    kept = found[: 1 + KEEP_DEPLOYED]
    return [p for p in kept if not p.is_base and not p.rejected_reason]


def readiness(servers: list[Replica] | None = None) -> list[tuple[str, bool, str]]:
    """(part, whether it is ready, in words) for each vLLM server; no address, no name.

    Here and below `servers` are `replicas()`, for who asks more than one of these.
    """
    servers = replicas() if servers is None else servers
    seen = {replica.url: replica for replica in servers}
    parts = []
    urls = replica_urls()
    for i, url in enumerate(urls, start=1):
        name = "vllm" if len(urls) == 1 else f"vllm-{i}"
        replica = seen.get(url)
        if replica is None or not is_alive(replica):
            parts.append((name, False, _("not running")))
            continue
        parts.append((name, is_ready(replica), replica.get_state_display()))
        if replica.warning:
            parts.append((f"{name}-rendering", False, replica.warning))
    return parts


def why_refused(policy: Policy, servers: list[Replica] | None = None) -> str:
    """Why no server that is ready can be given back this policy, which serves; or ""."""
    if policy.is_base:
        return ""  # It is what the server was started with.
    servers = replicas() if servers is None else servers
    ready = [replica for replica in servers if is_ready(replica)]
    whys = [replica.refused.get(policy.name, "") for replica in ready]
    return whys[0] if whys and all(whys) else ""


def stopped_on_purpose(servers: list[Replica] | None = None) -> str:
    """Why managers see no new answers: the reason given to set_wanted, or ""."""
    servers = replicas() if servers is None else servers
    stopped = (r.wanted_reason for r in servers if r.wanted == Replica.Wanted.STOPPED)
    return next(stopped, "")


def pairs_at_once() -> int:
    """How many pairs the ready servers sample together; asked for more, they queue them.

    SAMPLING_PAIRS for each, or what keeps vLLM busy with our own options: on a CPU it
    works at 16 answers, and half as many again wait for one of them to end.
    """
    of_each = settings.SAMPLING_PAIRS
    if not of_each:
        of_each = 16 if not settings.VLLM_URLS and has_cpu_build() else 64
    return of_each * max(1, sum(map(is_ready, replicas())))

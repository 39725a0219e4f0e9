"""Rows for tests, every field defaulted; each function returns a consistent whole.

`make_comparison()` brings its project, prompt, completions and open slots with it,
`make_judgment()` the lease and the filled slot, `make_pair()` the decision. Nothing
here goes through the services under test, so a broken service breaks its own tests.
"""

import hashlib
import itertools
import json
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.db.models import F
from django.utils import timezone

from annotation.models import (
    Comparison,
    Completion,
    Decision,
    GoldItem,
    Judgment,
    Lease,
    Membership,
    PreferencePair,
    Probe,
    Project,
    Prompt,
    Role,
    Slot,
)
from inference.models import Channel, Policy, Replica
from inference.replicas import replica_urls

_numbers = itertools.count(1)
_policy_numbers = itertools.count(1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_user(username="", *, password=None, project=None, role=None, **fields):
    """A user, a member of `project` where one is given (annotator unless said)."""
    user = get_user_model()(username=username or f"user{next(_numbers)}", **fields)
    # Hashing a password takes a tenth of a second: only where a test signs in by it.
    if password:
        user.set_password(password)
    else:
        user.set_unusable_password()
    user.save()
    if project is not None:
        make_member(project, user, role or Role.ANNOTATOR)
    return user


def make_member(project, user, role=Role.ANNOTATOR):
    return Membership.objects.create(project=project, user=user, role=role)


def make_base(**fields):
    """Policy 0, made once: every project of a test shares it unless told otherwise."""
    fields.setdefault("name", "policy-0000-ba5eba5e")
    fields.setdefault("base_model", "models/starter")
    fields.setdefault("base_sha256", _digest(fields["name"]))
    name = fields.pop("name")
    return Policy.objects.get_or_create(name=name, defaults={"number": 0, **fields})[0]


def make_policy(*, project=None, channel=None, parent=None, **fields):
    """An adapter's policy in the project's channel; its files are not made."""
    number = fields.setdefault("number", next(_policy_numbers))
    channel = channel or (project or make_project()).channel
    parent = parent or channel.serving
    sha256 = fields.setdefault("adapter_sha256", _digest(f"adapter {number}"))
    fields.setdefault("name", f"policy-{number:04d}-{sha256[:8]}")
    fields.setdefault("rank", 16)
    fields.setdefault("base_model", parent.base_model)
    fields.setdefault("base_sha256", parent.base_sha256)
    return Policy.objects.create(channel=channel, parent=parent, **fields)


def make_server(*, base=None, **fields):
    """vLLM as run_vllm has last seen it: ready. Nothing answers there."""
    fields.setdefault("url", replica_urls()[0])
    fields.setdefault("state", Replica.State.READY)
    fields.setdefault("heartbeat_at", timezone.now())
    return Replica.objects.create(base=base or make_base(), **fields)


def make_project(*, base=None, channel=None, members=None, **fields):
    """A project whose channel serves the base; `members` is {user: role}."""
    slug = fields.setdefault("slug", f"project{next(_numbers)}")
    fields.setdefault("name", slug.capitalize())
    base = base or make_base()
    channel = channel or Channel.objects.create(slug=slug, serving=base)
    project = Project.objects.create(base=base, channel=channel, **fields)
    for user, role in (members or {}).items():
        make_member(project, user, role)
    return project


def make_prompt(text="", *, project=None, **fields):
    text = text or f"Question {next(_numbers)}?"
    messages = fields.setdefault("messages", [{"role": "user", "content": text}])
    canonical = json.dumps(
        messages, ensure_ascii=False, sort_keys=True, separators=(",", ":")
    )
    fields.setdefault("sha256", _digest(canonical))
    return Prompt.objects.create(project=project or make_project(), **fields)


def make_completion(text="", *, prompt=None, **fields):
    """A sampled answer of the policy that serves; `source=` makes another kind."""
    text = text or f"Answer {next(_numbers)}, which is long enough to be judged fairly."
    prompt = prompt or make_prompt()
    source = fields.setdefault("source", Completion.Source.SAMPLED)
    if source == Completion.Source.SAMPLED:
        if "policy" not in fields:
            fields["policy"] = prompt.project.channel.serving
        fields.setdefault("finish_reason", "stop")
        fields.setdefault("sampling", {"temperature": 1.0, "max_tokens": 160})
        fields.setdefault("seed", next(_numbers))
        fields.setdefault("prompt_token_ids", [1, 2, 3])
        fields.setdefault("token_ids", [4, 5, 6, 2])
        fields.setdefault("logprobs", [-0.5, -0.25, -0.125, -0.0625])
    fields.setdefault("html", f"<p>{text}</p>")
    return Completion.objects.create(prompt=prompt, text=text, **fields)


def make_comparison(*, project=None, prompt=None, a=None, b=None, quota=1, **fields):
    """Two answers to one prompt, with `quota` open slots."""
    if prompt is None:
        prompt = a.prompt if a else make_prompt(project=project)
    a = a or make_completion(prompt=prompt)
    b = b or make_completion(prompt=prompt)
    fields.setdefault("policy", a.policy)
    comparison = Comparison.objects.create(
        project=prompt.project, prompt=prompt, a=a, b=b, **fields
    )
    Slot.objects.bulk_create(
        Slot(comparison=comparison, number=number) for number in range(1, quota + 1)
    )
    return comparison


def make_lease(*, comparison=None, annotator=None, project=None, **fields):
    """An active lease in the first open slot; a is shown first. A member if needed.

    With `outcome="ahead"` one reserved ahead.
    """
    comparison = comparison or make_comparison(project=project)
    annotator = annotator or make_user()
    Membership.objects.get_or_create(
        project=comparison.project,
        user=annotator,
        defaults={"role": Role.ANNOTATOR},
    )
    fields.setdefault("first", comparison.a)
    fields.setdefault("second", comparison.b)
    fields.setdefault("expires_at", timezone.now() + timedelta(minutes=15))
    lease = Lease.objects.create(
        project=comparison.project,
        comparison=comparison,
        annotator=annotator,
        **fields,
    )
    if lease.outcome in Lease.HELD:
        slot = comparison.slots.filter(state="open").order_by("number")[0]
        slot.state, slot.lease, slot.expires_at = "leased", lease, lease.expires_at
        slot.save()
    return lease


def make_flag(project, annotator=None, kind="unsafe", reason="", **fields):
    """A lease that ended with a flag; without a project, of one of its own."""
    fields.setdefault("ended_at", timezone.now())
    return make_lease(
        project=project,
        annotator=annotator,
        outcome="skipped",
        flag=kind,
        skip_reason=reason,
        **fields,
    )


def expire(lease):
    """As if its time had been over for a second."""
    past = timezone.now() - timedelta(seconds=1)
    Lease.objects.filter(pk=lease.pk).update(expires_at=past)
    Slot.objects.filter(lease=lease).update(expires_at=past)


def make_judgment(*, lease=None, verdict="first", **fields):
    """A standing judgment and its filled slot; decides nothing."""
    if lease is None:
        lease = make_lease(
            comparison=fields.pop("comparison", None),
            annotator=fields.pop("annotator", None),
            project=fields.pop("project", None),
        )
    slot = lease.slot
    lease.outcome, lease.ended_at = "judged", timezone.now()
    lease.save()
    slot.state, slot.expires_at = "judged", None
    slot.save()
    lease.comparison.judged += 1
    Comparison.objects.filter(pk=lease.comparison_id).update(judged=F("judged") + 1)
    winner = {"first": lease.first, "second": lease.second}.get(verdict)
    fields.setdefault("body_sha256", _digest(verdict))
    fields.setdefault("seconds", 4.2)
    return Judgment.objects.create(
        project=lease.project,
        comparison=lease.comparison,
        annotator=lease.annotator,
        lease=lease,
        slot=slot,
        verdict=verdict,
        winner=winner,
        **fields,
    )


def make_pair(
    *, judgment=None, comparison=None, project=None, annotator=None, **fields
):
    """An accepted pair of a decided comparison, as if its rules had passed."""
    judgment = judgment or make_judgment(
        comparison=comparison, project=project, annotator=annotator
    )
    comparison = judgment.comparison
    winner = judgment.winner
    loser = comparison.b if winner == comparison.a else comparison.a
    decision = Decision.objects.create(
        comparison=comparison, outcome="winner", winner=winner
    )
    comparison.state = "decided"
    comparison.save()
    fields.setdefault("state", PreferencePair.State.ACCEPTED)
    fields.setdefault("chosen", winner)
    fields.setdefault("rejected", loser)
    return PreferencePair.objects.create(
        project=comparison.project,
        prompt=comparison.prompt,
        decision=decision,
        **fields,
    )


def make_unchecked(prompt, chosen, rejected, **chosen_fields):
    """The pair that a judgment of two such answers makes, before its rules."""
    a = make_completion(chosen, prompt=prompt, **chosen_fields)
    b = make_completion(rejected, prompt=prompt)
    lease = make_lease(comparison=make_comparison(a=a, b=b))
    return make_pair(judgment=make_judgment(lease=lease), state="unchecked")


def make_imported(prompt, chosen="", rejected="", **fields):
    """An accepted pair of two such answers that came from a file."""
    fields.setdefault("state", PreferencePair.State.ACCEPTED)
    return PreferencePair.objects.create(
        project=prompt.project,
        prompt=prompt,
        kind="imported",
        chosen=make_completion(chosen, prompt=prompt, source="imported"),
        rejected=make_completion(rejected, prompt=prompt, source="imported"),
        **fields,
    )


def make_gold(*, project=None, a=None, b=None, expected="winner", **fields):
    """A gold item of two fresh answers, of which `a` is the better one."""
    prompt = fields.pop("prompt", None) or (
        a.prompt if a else make_prompt(project=project)
    )
    a = a or make_completion(prompt=prompt)
    b = b or make_completion(prompt=prompt)
    fields.setdefault("winner", a if expected == "winner" else None)
    if "author" not in fields:
        fields["author"] = make_user()
    return GoldItem.objects.create(
        project=prompt.project,
        prompt=prompt,
        a=a,
        b=b,
        expected=expected,
        sha256=_digest(f"gold {next(_numbers)}"),
        **fields,
    )


def make_probe(annotator, *, gold=None, repeats=None, after=None):
    """A comparison made for this annotator alone: `gold`, or their judgment again."""
    if gold is not None:
        of = {"prompt": gold.prompt, "a": gold.a, "b": gold.b, "purpose": "gold"}
    else:
        lease = repeats.lease
        of = {
            "prompt": repeats.comparison.prompt,
            "a": lease.second,
            "b": lease.first,
            "purpose": "repeat",
        }
    comparison = make_comparison(**of, policy=None)
    after = after or make_judgment(project=comparison.project, annotator=annotator)
    return Probe.objects.create(
        project=comparison.project,
        annotator=annotator,
        comparison=comparison,
        gold=gold,
        repeats=repeats,
        after=after,
    )


def judge_gold(annotator, gold, is_right=True, **fields):
    """The annotator's judgment on the gold item, which expects a winner."""
    comparison = make_probe(annotator, gold=gold).comparison
    return make_judgment(
        comparison=comparison,
        annotator=annotator,
        verdict="first" if is_right else "second",
        **fields,
    )

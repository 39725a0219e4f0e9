"""What other pairs say of a pair: similar prompts, the opposite preference.

Each look costs a few indexed queries, however many pairs there are; the comparing itself
is pure (rules/likeness.py). Who came first: the pair with the smaller id; one that repairs
another has that one's place.

Whenever a pair ceases to stand or to be accepted, or becomes accepted, the verdicts that
this makes untrue are found here and their pairs checked again, in the same transaction.
"""

import hashlib
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models import (
    BigIntegerField,
    Count,
    Exists,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
)
from django.db.models.functions import Coalesce

from annotation import project_settings, validation
from annotation.models import (
    PreferencePair,
    Project,
    Prompt,
    PromptBand,
    RuleVerdict,
)
from annotation.rules.likeness import bands, likeness, runs

MAX_SHARED = 5000
"""Rows of the index walked, of the prompts that came first: among thousands of variants
of one template the one that stays is nearly always there."""
MAX_ROWS = 500
"""Of those the rows looked at, of prompts with an accepted pair that came first; where
more of them share a band, some are missed."""
MAX_PROMPTS = 20
"""Prompts compared letter by letter: those that share the most bands."""

State = PreferencePair.State


def last_said(messages: list[dict[str, Any]]) -> str:
    """What the user said last, as text; empty where no user spoke."""
    said = [plain_content(m) for m in messages if _role(m) == "user"]
    return said[-1] if said else ""


def _role(message: Any) -> str:
    return str(message.get("role")) if isinstance(message, dict) else ""


def plain_content(message: Any) -> str:
    """A message's text, whatever its shape; of content in parts, those that are text.

    Parts are joined closer than in files/messages.py: bands and verdicts that are stored
    were made of this.
    """
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        return "\n".join(
            str(part.get("text") or "") for part in content if isinstance(part, dict)
        )
    return "" if content is None else str(content)


Near = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Others:
    """What the other pairs were when one looked, by which its verdicts stand or fall."""

    agreeing: int
    opposing: int
    """See PairFacts."""
    near: Near
    """(prompt that shares a band, its accepted pair that came first), a band each."""


def note(pair: PreferencePair, chosen: str, rejected: str) -> Others:
    """Write down what makes the pair comparable (its texts' hashes, its prompt's bands)
    and the most similar other prompt whose accepted pair came first; what was seen."""
    known = (
        pair.chosen_hash,
        pair.rejected_hash,
        pair.near_likeness,
        pair.near_pair_id,
    )
    pair.chosen_hash, pair.rejected_hash = _hash(chosen), _hash(rejected)
    near = _noted_near(pair)
    pair.near_likeness, pair.near_pair_id = _nearest(pair, near)
    fields = ["chosen_hash", "rejected_hash", "near_likeness", "near_pair"]
    if known != tuple(
        getattr(pair, PreferencePair._meta.get_field(name).attname) for name in fields
    ):
        pair.save(update_fields=fields)
    return Others(*counts(pair), near)


def is_still_so(pair: PreferencePair, seen: Others, is_near_asked: bool) -> bool:
    """Whether a look now, under the locks, finds what `note` saw."""
    if counts(pair) != (seen.agreeing, seen.opposing):
        return False
    return not is_near_asked or _near(pair, _bands(pair))[0] == seen.near


def is_near_still_so(pair: PreferencePair) -> bool:
    """Whether its last check found the prompt that is most like its own as it is now.
    What came or left meanwhile reopens accepted pairs alone."""
    near, _n_own = _near(pair, _bands(pair))
    return _nearest(pair, near) == (pair.near_likeness, pair.near_pair_id)


def _hash(text: str) -> int:
    """64 bits of a text, whitespace at both ends aside."""
    digest = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _bands(pair: PreferencePair) -> list[int]:
    return bands(_texts(pair.prompt.messages)[0])


def _noted_near(pair: PreferencePair) -> Near:
    """The prompts to compare with; the pair's own bands are written where they are not."""
    values = _bands(pair)
    near, n_own = _near(pair, values)
    if n_own < len(values):
        PromptBand.objects.bulk_create(
            [
                PromptBand(
                    project_id=pair.project_id, prompt_id=pair.prompt_id, value=value
                )
                for value in values
            ],
            ignore_conflicts=True,
        )
    return near


def _near(pair: PreferencePair, values: list[int]) -> tuple[Near, int]:
    """See Others; and how many of these bands the pair's own prompt has."""
    first = _accepted().filter(prompt=OuterRef("prompt"), came__lt=_came(pair))
    sharing = PromptBand.objects.filter(project_id=pair.project_id, value__in=values)
    walked = sharing.order_by("prompt", "value").values("pk")[:MAX_SHARED]
    rows = (
        sharing.filter(
            # Of those alone: else rejected duplicates would hide the one that stays.
            Q(prompt=pair.prompt_id) | Q(Exists(first), pk__in=walked)
        )
        .annotate(first_pair=Subquery(first.order_by("came").values("pk")[:1]))
        .order_by("value", "prompt")
        .values_list("prompt", "first_pair")
    )
    found = list(rows[:MAX_ROWS])
    others = tuple(row for row in found if row[0] != pair.prompt_id)
    return others, len(found) - len(others)


def _came(pair: PreferencePair) -> int:
    return pair.place or pair.pk


def _accepted() -> QuerySet[PreferencePair]:
    """The accepted pairs that stand, with `came`, their place."""
    return PreferencePair.objects.filter(
        state=State.ACCEPTED, superseded_at=None
    ).annotate(came=Coalesce("place", "pk", output_field=BigIntegerField()))


def _nearest(pair: PreferencePair, near: Near) -> tuple[float, int | None]:
    """The likeness of the most similar of these prompts, 0 where there is none, and the
    pair that came first there."""
    if not near:
        return 0.0, None
    first_pairs = dict(near)
    shared = Counter(prompt for prompt, _first in near).most_common(MAX_PROMPTS)
    prompts = Prompt.objects.in_bulk([prompt for prompt, _count in shared])
    mine = [runs(text) for text in _texts(pair.prompt.messages)]
    most: tuple[float, int | None] = (0.0, None)
    for pk in sorted(prompts, key=lambda prompt: first_pairs[prompt]):
        other = [runs(text) for text in _texts(prompts[pk].messages)]
        # A long conversation in common says nothing of the question asked last.
        like = min(likeness(mine[0], other[0]), likeness(mine[1], other[1]))
        if like > most[0]:
            most = like, first_pairs[pk]
    return most


def _texts(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """All but system messages (many prompts share those), and what was said last."""
    said = [plain_content(m) for m in messages if _role(m) != "system"]
    return "\n".join(said), last_said(messages)


def counts(pair: PreferencePair) -> tuple[int, int]:
    """(agreeing, opposing) standing pairs, this one included; see PairFacts.

    Two texts that are the same contradict nothing: that they are has a rule of its own.
    """
    found = _alike(pair).aggregate(
        agreeing=Count("pk", filter=Q(chosen_hash=pair.chosen_hash)),
        opposing=Count("pk", filter=Q(chosen_hash=pair.rejected_hash)),
    )
    is_same = pair.chosen_hash == pair.rejected_hash
    return found["agreeing"], 0 if is_same else found["opposing"]


def _alike(pair: PreferencePair) -> QuerySet[PreferencePair]:
    """Standing pairs of the same two texts to the same prompt, whichever won."""
    one, other = pair.chosen_hash, pair.rejected_hash
    return PreferencePair.objects.filter(
        Q(chosen_hash=one, rejected_hash=other)
        | Q(chosen_hash=other, rejected_hash=one),
        prompt=pair.prompt_id,
        superseded_at=None,
    )


def with_counts(pairs: QuerySet[PreferencePair]) -> QuerySet[PreferencePair]:
    """The pairs with `n_agreeing` and `n_opposing`, as `counts` has them."""
    here = PreferencePair.objects.filter(
        prompt=OuterRef("prompt"), superseded_at=None
    ).order_by()

    def number(of: QuerySet, chosen: str, rejected: str) -> Coalesce:
        alike = of.filter(
            chosen_hash=OuterRef(chosen), rejected_hash=OuterRef(rejected)
        )
        return Coalesce(
            Subquery(alike.values("prompt").annotate(n=Count("*")).values("n")), 0
        )

    return pairs.annotate(
        n_agreeing=number(here, "chosen_hash", "rejected_hash"),
        n_opposing=number(
            here.exclude(chosen_hash=F("rejected_hash")), "rejected_hash", "chosen_hash"
        ),
    )


def reopen_others(pair: PreferencePair, agreeing: int, opposing: int) -> int:
    """Have pairs of the same two texts checked again whose stored verdict is untrue by
    these counts (the pair came, or left); how many."""
    if pair.chosen_hash == pair.rejected_hash:
        return 0
    reopened = 0
    for chosen, same, against in (
        (pair.chosen_hash, agreeing, opposing),
        (pair.rejected_hash, opposing, agreeing),
    ):
        is_lost = 0 < against >= same
        untrue = RuleVerdict.objects.filter(
            pair=OuterRef("pk"),
            rule="contradiction",
            result="pass" if is_lost else "reject",
        )
        found = _alike(pair).filter(Exists(untrue), chosen_hash=chosen)
        reopened += _reopened(found.exclude(pk=pair.pk))
    return reopened


def reopen_kept_away(pair: PreferencePair) -> int:
    """Have the near duplicates checked again that were rejected because this pair came
    first, which no longer stands accepted; how many."""
    return _reopened(kept_away(pair))


def kept_away(pair: PreferencePair) -> QuerySet[PreferencePair]:
    """The unfrozen near duplicates whose rejection names this pair."""
    objection = RuleVerdict.objects.filter(
        pair=OuterRef("pk"), rule="near_duplicate", result="reject"
    )
    named = PreferencePair.objects.filter(Exists(objection), near_pair=pair.pk)
    return named.filter(superseded_at=None, frozen_at=None)


def reopen_later(pair: PreferencePair) -> int:
    """Have accepted pairs checked again that came after this one, accepted just now, on
    prompts that share a band with its own; how many."""
    own = PromptBand.objects.filter(prompt=pair.prompt_id)
    sharing = PromptBand.objects.filter(
        project_id=pair.project_id, value__in=own.values("value")
    ).exclude(prompt=pair.prompt_id)
    came = _came(pair)
    # No place is above its pair's id; by the id an index finds the later ones.
    later = _accepted().filter(project=pair.project_id, pk__gt=came, came__gt=came)
    return _reopened(later.filter(prompt__in=sharing.values("prompt")))


def reopen_after(pair: PreferencePair) -> int:
    """The same for all that hangs on a pair which was superseded just now; how many."""
    # A repair has the near duplicates of the pair before it, be it checked or not.
    reopened = reopen_kept_away(pair)
    if pair.chosen_hash is None:
        return reopened  # It was never checked: no pair of the same texts knows of it.
    return reopened + reopen_others(pair, *counts(pair))


def lock_around(pairs: QuerySet[PreferencePair]) -> None:
    """Lock what a change of these pairs may reopen: pairs of their prompts and, by the
    project, near duplicates on other prompts. Before any pair is locked."""
    if not connection.features.has_select_for_update:
        return
    for project in Project.objects.filter(pk__in=pairs.values("project")):
        take_turn(project.pk, project_settings.of(project))
    # Of the pairs on other prompts only rejected ones, which no round takes.
    lock(
        PreferencePair.objects.filter(
            prompt__in=pairs.values("prompt"), superseded_at=None
        )
    )


def take_turn(
    project_id: int, settings: project_settings.ProjectSettings
) -> Project | None:
    """The project, locked until the transaction ends, where near duplicates are looked
    for: whoever stores a check there, or changes what others hang on, does so in turn."""
    if not asks_for_near(settings):
        return None
    return Project.objects.select_for_update(no_key=True, of=("self",)).get(
        pk=project_id
    )


def asks_for_near(settings: project_settings.ProjectSettings) -> bool:
    return "near_duplicate" in validation.asked(settings.rules)


def lock(pairs: QuerySet[PreferencePair]) -> None:
    """Until the transaction ends: prompts before pairs and each in its order, as those
    who store checks or freeze pairs do. Else two that hold some rows each may wait for
    the other's."""
    if not connection.features.has_select_for_update:
        return
    prompts = Prompt.objects.filter(pk__in=pairs.values("prompt"))
    for rows in (prompts, pairs):
        ids = rows.select_for_update(no_key=True).order_by("pk").values_list("pk")
        deque(ids.iterator(), maxlen=0)  # However many: none is kept.


def _reopened(pairs: QuerySet[PreferencePair]) -> int:
    """Make those of them unchecked that were checked and may still change."""
    free = pairs.filter(superseded_at=None, frozen_at=None)
    free = free.exclude(state=State.UNCHECKED)
    if connection.features.has_select_for_update:
        # In the order in which rounds freeze them.
        locked = free.select_for_update(no_key=True, of=("self",)).order_by("pk")
        if not list(locked.values_list("pk", flat=True)):
            return 0
    return free.update(state=State.UNCHECKED)

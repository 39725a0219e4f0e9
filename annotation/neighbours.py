"""What other pairs say of a pair: similar prompts, the opposite preference.

Each look costs a few indexed queries, however many pairs there are; the comparing itself
is pure (rules/likeness.py). Who came first: the pair with the smaller id; one that repairs
another has that one's place.

Whenever a pair ceases to stand or to be accepted, or becomes accepted, the verdicts that
this makes untrue are found here and their pairs checked again, in the same transaction.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
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

from annotation import project_settings, sql, validation
from annotation.batches import in_batches
from annotation.models import (
    PreferencePair,
    Project,
    Prompt,
    PromptBand,
    RuleVerdict,
)
from annotation.rules.likeness import BANDS, bands, likeness, runs

MAX_ROWS = 500
"""Prompts taken of each band, the oldest: only a template with more variants that stay
has a band with more, and then the verdict says so."""
MAX_PROMPTS = 300
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
    """(prompt that shares a band, its accepted pair that came first), each prompt once,
    those that share the most bands before the others; MAX_PROMPTS at most."""
    near_left_out: int
    """See PairFacts."""
    has_bands: bool
    """Whether the prompt's own are written, so that later pairs find it."""


def note(pair: PreferencePair, chosen: str, rejected: str) -> Others:
    """Write down what makes the pair comparable (its texts' hashes) and the most similar
    other prompt whose accepted pair came first; what was seen."""
    known = (
        pair.chosen_hash,
        pair.rejected_hash,
        pair.near_likeness,
        pair.near_pair_id,
    )
    pair.chosen_hash, pair.rejected_hash = _hash(chosen), _hash(rejected)
    near, left_out, has_bands = _near(pair)
    pair.near_likeness, pair.near_pair_id = _nearest(pair, near)
    fields = ["chosen_hash", "rejected_hash", "near_likeness", "near_pair"]
    if known != tuple(
        getattr(pair, PreferencePair._meta.get_field(name).attname) for name in fields
    ):
        pair.save(update_fields=fields)
    return Others(*counts(pair), near, left_out, has_bands)


def is_still_so(pair: PreferencePair, seen: Others, is_near_asked: bool) -> bool:
    """Whether a look now, under the locks, finds what `note` saw."""
    if counts(pair) != (seen.agreeing, seen.opposing):
        return False
    was = seen.near, seen.near_left_out, seen.has_bands
    return not is_near_asked or _near(pair) == was


def is_near_still_so(pair: PreferencePair) -> bool:
    """Whether its last check found the prompt that is most like its own as it is now.
    What came or left meanwhile reopens accepted pairs alone."""
    return _nearest(pair, _near(pair)[0]) == (pair.near_likeness, pair.near_pair_id)


def _hash(text: str) -> int:
    """64 bits of a text, whitespace at both ends aside."""
    digest = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _bands(pair: PreferencePair) -> list[int]:
    return bands(_texts(pair.prompt.messages)[0])


def _near(pair: PreferencePair) -> tuple[Near, int, bool]:
    """`near`, `near_left_out` and `has_bands` of Others."""
    rows = _sharing(pair)
    first_pairs = {prompt: first for prompt, _shared, first in rows if first}
    shared = {prompt: n for prompt, n, _first in rows}
    most_rows, has_bands = shared.pop(None, 0), pair.prompt_id in shared
    first_pairs.pop(pair.prompt_id, None)
    order = sorted(first_pairs, key=lambda prompt: (-shared[prompt], prompt))
    left_out = max((shared[prompt] for prompt in order[MAX_PROMPTS:]), default=0)
    near = tuple((prompt, first_pairs[prompt]) for prompt in order[:MAX_PROMPTS])
    return near, BANDS if most_rows >= MAX_ROWS else left_out, has_bands


_BAND = (
    "SELECT * FROM (SELECT value, prompt_id FROM annotation_promptband"
    f" WHERE project_id = %s AND value = %s ORDER BY prompt_id LIMIT {MAX_ROWS}) AS band"
)
_SHARING = """WITH sharing AS ({bands})
SELECT prompt_id, COUNT(*), (
    SELECT id FROM annotation_preferencepair AS pair
    WHERE pair.prompt_id = sharing.prompt_id AND state = 'accepted'
        AND superseded_at IS NULL AND COALESCE(place, id) < %s
    ORDER BY COALESCE(place, id) LIMIT 1
) FROM sharing GROUP BY prompt_id
UNION ALL
SELECT NULL, MAX(n), NULL FROM (SELECT COUNT(*) AS n FROM sharing GROUP BY value) AS each"""


def _sharing(pair: PreferencePair) -> list[tuple[int | None, int, int | None]]:
    """(prompt, how many bands it shares, its accepted pair that came first if any came
    before this one) of MAX_ROWS prompts a band; and (None, rows of the fullest, None)."""
    values = _bands(pair)
    if not values:
        return []
    params = chain.from_iterable((pair.project_id, value) for value in values)
    statement = _SHARING.format(bands=" UNION ALL ".join([_BAND] * len(values)))
    found = sql.rows(statement, *params, _came(pair))
    return [(prompt, n or 0, first) for prompt, n, first in found]


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
    first_pairs = dict(near)
    likes = _likenesses(pair, first_pairs)
    most: tuple[float, int | None] = (0.0, None)
    for pk in sorted(likes, key=lambda prompt: first_pairs[prompt]):
        if likes[pk] > most[0]:
            most = likes[pk], first_pairs[pk]
    return most


def _likenesses(pair: PreferencePair, prompts: Iterable[int]) -> dict[int, float]:
    """How like each of these prompts is to the pair's own."""
    likes = {}
    mine: list[frozenset[str]] = []
    for some in in_batches(prompts):
        mine = mine or _runs(pair.prompt.messages)
        found = Prompt.objects.filter(pk__in=some).values_list("pk", "messages")
        for pk, messages in found:
            # A long conversation in common says nothing of the question asked last.
            likes[pk] = min(map(likeness, mine, _runs(messages)))
    return likes


def _runs(messages: list[dict[str, Any]]) -> list[frozenset[str]]:
    said, last = _texts(messages)
    all_said = runs(said)
    return [all_said, all_said if last == said else runs(last)]


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


def stand(pair: PreferencePair) -> None:
    """Have later pairs find this one, which is accepted now: write its prompt's bands."""
    PromptBand.objects.bulk_create(
        [
            PromptBand(
                project_id=pair.project_id, prompt_id=pair.prompt_id, value=value
            )
            for value in _bands(pair)
        ],
        ignore_conflicts=True,
    )


def fall(pair: PreferencePair) -> None:
    """Have nobody walk past this prompt any more where none of its pairs is accepted: of
    a template a few variants stay and thousands don't."""
    accepted = _accepted().filter(prompt=pair.prompt_id)
    PromptBand.objects.filter(~Exists(accepted), prompt=pair.prompt_id).delete()


def reopen_later(pair: PreferencePair) -> int:
    """Have accepted pairs checked again that came after this one, accepted just now, on
    prompts that the project's rule holds to be like its own; how many."""
    least = least_near(project_settings.of(pair.project))
    if least is None:
        return 0
    came = _came(pair)
    # No place is above its pair's id; by the id an index finds the later ones.
    later = _accepted().filter(project=pair.project_id, pk__gt=came, came__gt=came)
    if not later.exists():
        return 0
    own = PromptBand.objects.filter(prompt=pair.prompt_id)
    sharing = PromptBand.objects.filter(
        project_id=pair.project_id, value__in=own.values("value")
    ).exclude(prompt=pair.prompt_id)
    free = later.filter(frozen_at=None, prompt__in=sharing.values("prompt"))
    likes = _likenesses(pair, set(free.values_list("prompt", flat=True)))
    near = [prompt for prompt, like in likes.items() if like >= least]
    return sum(_reopened(free.filter(prompt__in=some)) for some in in_batches(near))


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
    return least_near(settings) is not None


def least_near(settings: project_settings.ProjectSettings) -> float | None:
    """How like two prompts are that count as near duplicates; None where none does."""
    asked = validation.asked(settings.rules).get("near_duplicate")
    return asked["min_likeness"] if asked else None


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

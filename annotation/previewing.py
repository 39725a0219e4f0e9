"""What other rules would make of a project's pairs, before anybody saves them.

Verdicts whose parameters stay the same are taken as stored, and what a rule measured
once (similarity, widths, tokens) is not measured again. Nothing is written, and no
model server is asked.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from annotation import checking, neighbours, project_settings, queries, validation
from annotation.batches import in_batches
from annotation.models import LetThrough, PreferencePair, Project, RuleVerdict
from annotation.validation import PairFacts, Verdict

MAX_PAIRS = 2000
"""The newest ones are looked at."""
SHOWN = 20
BATCH = 200


@dataclass(frozen=True)
class Line:
    pair: int
    prompt: str
    reason: str


@dataclass
class RuleChange:
    """What one rule would do to pairs, were the rules saved."""

    rule: str
    more: int = 0
    """Pairs that pass now and would be lost, to this rule first."""
    fewer: int = 0
    """Pairs lost to this rule first, which would pass."""
    also: int = 0
    """Pairs lost already that this rule would object to as well."""
    more_pairs: list[Line] = field(default_factory=list)
    fewer_pairs: list[Line] = field(default_factory=list)
    """The newest SHOWN of each."""


@dataclass
class Preview:
    looked_at: int = 0
    all: int = 0
    """Checked standing pairs that no round has taken."""
    waiting: int = 0
    """Those not checked yet, about which nothing is said."""
    uncounted: int = 0
    """Pairs whose tokens nobody has counted, of which `max_length` says nothing here:
    saving has them counted, and that rule may then reject them."""
    is_near_asked: bool = False
    """Whether near duplicates would be looked for: their figures are as of the states that
    pairs have now, and in a chain one pair's fate hangs on the next one's."""
    accepted_now: int = 0
    accepted_then: int = 0
    rules: list[RuleChange] = field(default_factory=list)
    """Those that change something, in the order of the rules."""

    @property
    def more(self) -> int:
        return sum(change.more for change in self.rules)

    @property
    def fewer(self) -> int:
        return sum(change.fewer for change in self.rules)


def preview(
    project: Project,
    rules: Mapping[str, Mapping[str, Any]],
    accept_unchecked: bool | None = None,
) -> Preview:
    """What would change for the newest MAX_PAIRS pairs that may still change.

    `rules` is {rule: {parameter: value}}, checked; what it does not name stays as the
    project has it, `accept_unchecked` too where None.
    """
    now = project_settings.of(project)
    wanted = project_settings.merged("rules", now.rules, rules)
    then = replace(
        now,
        rules=wanted,
        accept_unchecked=(
            now.accept_unchecked if accept_unchecked is None else accept_unchecked
        ),
    )
    free = queries.standing_pairs(project).filter(frozen_at=None)
    checked = free.exclude(queries.WAITS_FOR_CHECK)
    ids = list(checked.order_by("-pk").values_list("pk", flat=True)[:MAX_PAIRS])
    found = Preview(
        looked_at=len(ids),
        all=checked.count() if len(ids) == MAX_PAIRS else len(ids),
        waiting=free.filter(queries.WAITS_FOR_CHECK).count(),
        is_near_asked=neighbours.asks_for_near(then),
    )
    changes: dict[str, RuleChange] = {}
    for some in in_batches(ids, BATCH):
        _look(some, now, then, found, changes)
    _name_prompts(changes)
    found.rules = [
        changes[rule] for rule in validation.in_order(wanted) if rule in changes
    ]
    return found


def _look(
    ids: list[int],
    now: project_settings.ProjectSettings,
    then: project_settings.ProjectSettings,
    found: Preview,
    changes: dict[str, RuleChange],
) -> None:
    stored = _stored(ids)
    words = {
        word.pair_id: word
        for word in LetThrough.objects.filter(pair__in=ids, taken_back_at=None)
    }
    asked = validation.asked(then.rules)
    to_run = {
        pk: [
            rule
            for rule, params in asked.items()
            if rule not in stored[pk] or stored[pk][rule].params != params
        ]
        for pk in ids
    }
    facts = _facts([pk for pk in ids if to_run[pk]], to_run, stored, then)
    for pk in ids:
        verdicts = [
            _run(rule, params, facts[pk]) if rule in to_run[pk] else stored[pk][rule]
            for rule, params in asked.items()
        ]
        found.uncounted += any(map(_is_uncounted, verdicts))
        known = [stored[pk][rule] for rule in validation.in_order(stored[pk])]
        before = _blocking(known, now, words.get(pk))
        after = _blocking(verdicts, then, words.get(pk))
        found.accepted_now += not before
        found.accepted_then += not after
        _count(pk, before, after, changes)


def _blocking(
    verdicts: list[Verdict],
    settings: project_settings.ProjectSettings,
    word: LetThrough | None,
) -> list[Verdict]:
    let = validation.still_let_through(verdicts, word.rules, word.seen) if word else ()
    return validation.blocking(verdicts, settings.accept_unchecked, let)


def _is_uncounted(verdict: Verdict) -> bool:
    return (
        verdict.rule == "max_length"
        and verdict.result == "could_not_check"
        and not verdict.reason.startswith(validation.BROKE)
    )


def _count(
    pk: int, before: list[Verdict], after: list[Verdict], changes: dict[str, RuleChange]
) -> None:
    def change(verdict: Verdict) -> RuleChange:
        return changes.setdefault(verdict.rule, RuleChange(verdict.rule))

    if after and not before:
        of = change(after[0])
        of.more += 1
        if len(of.more_pairs) < SHOWN:
            of.more_pairs.append(Line(pk, "", after[0].reason))
    elif before and not after:
        of = change(before[0])
        of.fewer += 1
        if len(of.fewer_pairs) < SHOWN:
            of.fewer_pairs.append(Line(pk, "", before[0].reason))
    else:
        known = {verdict.rule for verdict in before}
        for verdict in after:
            if verdict.rule not in known:
                change(verdict).also += 1


def _run(rule: str, params: dict[str, Any], facts: PairFacts) -> Verdict:
    said = validation.run_rule(rule, facts, params)
    return Verdict(rule, said.result, said.reason, params, said.measured)


def _stored(ids: list[int]) -> dict[int, dict[str, Verdict]]:
    stored: dict[int, dict[str, Verdict]] = {pk: {} for pk in ids}
    rows = RuleVerdict.objects.filter(pair__in=ids).values_list(
        "pair", "rule", "result", "reason", "params", "measured"
    )
    for pk, *said in rows:
        stored[pk][said[0]] = Verdict(*said)
    return stored


def _facts(
    ids: list[int],
    to_run: Mapping[int, list[str]],
    stored: Mapping[int, dict[str, Verdict]],
    settings: project_settings.ProjectSettings,
) -> dict[int, PairFacts]:
    """The facts of these pairs; of other pairs and tokens only where a rule wants it."""
    if not ids:
        return {}
    rules = {rule for pk in ids for rule in to_run[pk]}
    heavy = ["logprobs", "html", "sampling"]
    is_to_count = any(
        "max_length" in to_run[pk] and "max_length" not in _measured(stored[pk])
        for pk in ids
    )
    if not is_to_count:
        heavy += ["prompt_token_ids", "token_ids"]
    pairs = (
        PreferencePair.objects.filter(pk__in=ids)
        .select_related("prompt", "chosen__edited_from", "rejected__edited_from")
        .defer(
            *(f"{side}__{name}" for side in ("chosen", "rejected") for name in heavy)
        )
    )
    if "contradiction" in rules:
        pairs = neighbours.with_counts(pairs)
    return {
        pair.pk: replace(
            checking.facts_of(
                pair,
                settings,
                _not_counted if is_to_count else None,
                _measured(stored[pair.pk]),
            ),
            agreeing=getattr(pair, "n_agreeing", None),
            opposing=getattr(pair, "n_opposing", None),
        )
        for pair in pairs
    }


def _not_counted(messages: list[dict[str, Any]]) -> None:
    """Only sampled answers have their tokens at hand."""


def _measured(verdicts: Mapping[str, Verdict]) -> dict[str, float]:
    return {
        rule: verdict.measured
        for rule, verdict in verdicts.items()
        if verdict.measured is not None
    }


def _name_prompts(changes: Mapping[str, RuleChange]) -> None:
    """Put the prompts' beginnings into the lines that are shown: one query."""
    lists = [lines for c in changes.values() for lines in (c.more_pairs, c.fewer_pairs)]
    shown = {line.pair for lines in lists for line in lines}
    if not shown:
        return
    names: dict[int, str] = defaultdict(str)
    pairs = PreferencePair.objects.filter(pk__in=shown).select_related("prompt")
    for pair in pairs.only("prompt__messages"):
        names[pair.pk] = str(pair.prompt)
    for lines in lists:
        lines[:] = [replace(line, prompt=names[line.pair]) for line in lines]

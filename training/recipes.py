"""What a round is made of: where it starts, its reference, its pairs, its config.

A preset is a name for three choices; each can be overridden by itself. Nothing is
written here; see rounds.py.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _

from annotation import project_settings
from annotation.models import Project
from annotation.queries import sound_pairs
from annotation.retelling import retold
from inference.models import Policy
from inference.queries import lineage, serving_policy
from inference.server import largest_rank
from training.dpo.config import FRESH_RANK, TrainingConfig, parse_config
from training.dpo.errors import TrainerError
from training.errors import RoundRefused
from training.models import RoundPair, TrainingRound

Data, Reference = TrainingRound.Data, TrainingRound.Reference

BASE, SERVING = "base", "serving"

PRESETS: dict[str, tuple[str, str, str]] = {
    "cumulative": (BASE, Reference.BASE, Data.ALL),
    "incremental": (SERVING, Reference.START, Data.NEW_AND_REPLAY),
}
"""name → (start, reference, data), as the design describes them."""

REPLAY_SHARE = 0.25
"""Of an incremental round's pairs, the share seen before: enough against forgetting
in our trials, few enough that the new pairs decide."""

OURS = (
    "base_model",
    "parent_adapter",
    "reference",
    "resume_from",
    "reference_cache",
)
"""Keys of the trainer's config that the round itself fills in."""


@dataclass(frozen=True)
class Recipe:
    """One round's choices, all checked."""

    preset: str
    """Empty where the choices make no preset."""
    start: Policy
    reference: str
    data: str
    config: dict[str, Any]


def resolve(
    project: Project,
    *,
    preset: str | None = None,
    start: str | Policy | None = None,
    reference: str | None = None,
    data: str | None = None,
    config: dict[str, Any] | None = None,
) -> Recipe:
    """Preset, then what overrides it; what is not given comes from the project.

    `start` is "base", "serving", a policy or its name. Raises RoundRefused (422).
    """
    defaults = project_settings.of(project).round
    if preset:
        # A preset asked for by name is not bent by the project's own choices.
        defaults = {"preset": preset, "config": defaults.get("config")}
    name = defaults.get("preset") or "cumulative"
    if name not in PRESETS:
        raise _unknown("preset", name, list(PRESETS))
    usual = plain_recipe(project, name)
    start = start or defaults.get("start") or PRESETS[name][0]
    reference = reference or defaults.get("reference") or usual.reference
    data = data or defaults.get("data") or usual.data
    if reference not in Reference.values:
        raise _unknown("reference", reference, Reference.values)
    if data not in Data.values:
        raise _unknown("data", data, Data.values)
    policy = _policy(project, start)
    recipe = Recipe(name, policy, reference, data, {})
    return replace(
        recipe,
        preset=name if recipe == usual else "",
        config=_checked_config(policy, _merged(defaults.get("config"), config)),
    )


def usual_preset(project: Project) -> str:
    """The preset of the project's own settings."""
    name = project_settings.of(project).round.get("preset")
    return name if name in PRESETS else "cumulative"


def plain_recipe(project: Project, preset: str) -> Recipe:
    """A preset as it stands, with nothing of anybody's config."""
    start, reference, data = PRESETS[preset]
    return Recipe(preset, _policy(project, start), reference, data, {})


def _unknown(field: str, value: Any, known: list[str]) -> RoundRefused:
    return RoundRefused(
        _("“%(field)s” cannot be “%(value)s”; it is one of %(known)s.")
        % {"field": field, "value": value, "known": ", ".join(known)},
        422,
    )


def _policy(project: Project, start: str | Policy) -> Policy:
    if start == BASE:
        return project.base
    if start == SERVING:
        return serving_policy(project.channel)
    if isinstance(start, Policy):
        policy: Policy | None = start
    else:
        policy = Policy.objects.filter(name=start).first()
    known = policy is not None and (
        policy == project.base or policy.channel_id == project.channel_id
    )
    if policy is None or not known:
        raise RoundRefused(
            _("This project has no policy “%(name)s” to start from.") % {"name": start},
            422,
        )
    if policy.rejected_reason:
        raise RoundRefused(
            _("%(name)s was rejected (%(reason)s), so no round can start from it.")
            % {"name": policy.name, "reason": retold(policy.rejected_reason)},
            422,
        )
    return policy


def _merged(usual: Any, given: Any) -> dict[str, Any]:
    """The project's config with what this round is given; of `lora` each key apart."""
    usual, given = usual or {}, given or {}
    if not isinstance(usual, dict) or not isinstance(given, dict):
        raise RoundRefused(_("“config” must be an object of names and values."), 422)
    merged = {**usual, **given}
    both = (usual.get("lora"), given.get("lora"))
    if all(isinstance(lora, dict) for lora in both):
        merged["lora"] = {**both[0], **both[1]}
    return merged


def _checked_config(start: Policy, config: dict[str, Any]) -> dict[str, Any]:
    for key in OURS:
        if key in config:
            raise RoundRefused(
                _(
                    "“config.%(key)s” is filled in by the round; choose “start” and"
                    " “reference” instead."
                )
                % {"key": key},
                422,
            )
    try:
        parsed = parse_config({"base_model": start.base_model, **config})
    except TrainerError as error:
        raise RoundRefused(str(error), 422) from None
    if parsed.tuning == "full":
        raise RoundRefused(
            _(
                "“tuning” cannot be “full” in a round: it makes a whole model, and vLLM"
                " serves adapters of one base model here; train it by hand"
                " (docs/trainer.md)."
            ),
            422,
        )
    rank = parsed.lora.r or (FRESH_RANK if start.is_base else start.rank)
    if rank > largest_rank():
        # Better now than after hours of training.
        raise RoundRefused(
            _("“lora.r” is %(rank)d, and vLLM was started for at most %(most)d.")
            % {"rank": rank, "most": largest_rank()},
            422,
        )
    return config


def seed_of(config: dict[str, Any]) -> int:
    """The seed a round's choices are made with; the trainer's own default else."""
    return int(config.get("seed", TrainingConfig.__dataclass_fields__["seed"].default))


def trained_pairs(start: Policy) -> QuerySet[RoundPair]:
    """The pairs that the rounds behind `start` and its ancestors trained on.

    Rounds that failed, or whose policy was rolled back, are not behind it: their
    pairs count as new.
    """
    return RoundPair.objects.filter(
        training_round__state=TrainingRound.State.SUCCEEDED,
        training_round__policy__in=lineage(start),
    )


def count_pairs(project: Project, recipe: Recipe, n_sound: int) -> int:
    """How many of the project's `n_sound` sound pairs choose_pairs would give, without
    reading them."""
    if recipe.data == Data.ALL:
        return n_sound
    trained = trained_pairs(recipe.start).values("pair")
    seen = sound_pairs(project).filter(pk__in=trained).count()
    new = n_sound - seen
    if recipe.data == Data.NEW:
        return new
    return new + min(_replayed(new), seen)


def _replayed(new: int) -> int:
    return round(new * REPLAY_SHARE / (1 - REPLAY_SHARE))


def choose_pairs(project: Project, recipe: Recipe) -> list[tuple[int, bool]]:
    """(id, is it a replay) of every pair the recipe trains on, by id."""
    sound = list(
        sound_pairs(project).order_by("pk").values_list("pk", flat=True).iterator()
    )
    if recipe.data == Data.ALL:
        return [(pk, False) for pk in sound]
    trained = set(trained_pairs(recipe.start).values_list("pair_id", flat=True))
    new = [pk for pk in sound if pk not in trained]
    if recipe.data == Data.NEW or not new:
        return [(pk, False) for pk in new]
    seen = [pk for pk in sound if pk in trained]
    chooser = random.Random(seed_of(recipe.config))
    replayed = chooser.sample(seen, min(_replayed(len(new)), len(seen)))
    return sorted([(pk, False) for pk in new] + [(pk, True) for pk in replayed])

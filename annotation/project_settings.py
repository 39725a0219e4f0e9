"""A project's own settings: every default, and the check of what somebody sends.

The row keeps what differs from the defaults; `of(project)` merges both. What the
whole deployment shares (model, database, vLLM) is in config/settings.py instead.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from typing import Any

from django.db.models import TextChoices
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation.errors import MOST_TOLD, SettingsError
from annotation.models import Project
from annotation.retelling import retold
from annotation.validation import CHOICES as RULE_CHOICES
from annotation.validation import DEFAULTS as DEFAULT_RULES
from annotation.validation import LISTS as RULE_LISTS
from annotation.validation import RANGES as RULE_RANGES
from inference.sampling import SamplingParams

DEFAULT_SAMPLING: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "max_tokens": 256,
    "system_prompt": "",
}

STARTER: dict[str, Any] = {
    "sampling": {"temperature": 0.8},
    "rules": {"chosen_width": {"min_columns": 20}},
    "round": {"config": {"loss": {"sigmoid": 1.0, "sft": 1.0}}},
}
"""What a new project on the starter model begins with where its maker says nothing.

So small a model breaks every seventh answer at temperature 1, and DPO alone teaches it the
taste and unteaches it whole sentences; docs/decisions.md has what was measured. Its answers
are a sentence or two: the usual floor turns a quarter of the pairs away where the shorter one
is liked. Nothing was measured on larger models: they keep the defaults.
"""


class DecideBy(TextChoices):
    """What makes a decision of a comparison's judgments."""

    MAJORITY = "majority", gettext_lazy("majority")
    WEIGHTED = "weighted", gettext_lazy("weighted annotators")
    REVIEWER = "reviewer", gettext_lazy("a reviewer")


class NextComparison(TextChoices):
    """Which of the waiting comparisons somebody is given."""

    OLDEST = "oldest", gettext_lazy("the oldest")
    RANDOM = "random", gettext_lazy("a random one")
    FEWEST = "fewest", gettext_lazy("the one with the fewest judgments")


@dataclass(frozen=True)
class ProjectSettings:
    sampling: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_SAMPLING))
    """How answers are sampled; `system_prompt` is put before a prompt without one."""
    stock: int = 12
    """Comparisons kept ready, so that nobody waits for the model."""
    quota: int = 1
    """Judgments wanted for each comparison made from now on."""
    next_comparison: str = NextComparison.OLDEST.value
    """oldest, random, or fewest (judgments first; among equals the oldest)."""
    overlap_share: float = 1.0
    """Share of them that get `quota` judgments; the others get one."""
    decide_by: str = DecideBy.MAJORITY.value
    """What makes a decision of judgments: majority, weighted (annotators) or reviewer."""
    min_posterior: float = 0.8
    """Probability a weighted decision must reach, else a reviewer decides."""
    lease_minutes: float = 15
    """How long a comparison is kept for the annotator who sees it."""
    held_out_share: float = 0.1
    """Share of prompts set aside on import; theirs measure and never train."""
    auto_deploy: bool = False
    """Whether a round's policy serves at once; else a manager deploys it."""
    rules: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {name: dict(p) for name, p in DEFAULT_RULES.items()}
    )
    """{rule: {"on": true, …parameters}}, see annotation/validation.py."""
    accept_unchecked: bool = True
    """Whether a pair trains though a rule could not be checked (it keeps the mark)."""
    round: dict[str, Any] = field(
        default_factory=lambda: {"preset": "cumulative", "config": {}}
    )
    """What a round starts with where its starter says nothing (design §5.2)."""
    round_pairs: int = 50
    """New sound pairs that are enough for a round; the overview says when."""
    ask_strength: bool = False
    """Whether annotators say how much better."""
    strength_weights: dict[str, float] = field(
        default_factory=lambda: {"1": 1.0, "2": 1.0, "3": 1.0}
    )
    """Weight in training of a pair judged slightly, clearly, much better.

    All alike by default: whether grades help is to be measured, not assumed.
    """
    ask_reasons: list[str] = field(default_factory=list)
    """Reasons an annotator may tick, e.g. ["correct", "clear"]."""
    criteria: list[str] = field(default_factory=list)
    """Judged one by one beside the verdict, e.g. ["helpful", "harmless"]; none by default."""
    gold_rate: float = 0.0
    """Share of comparisons handed out that are gold; 0 until a project has some."""
    repeat_rate: float = 0.0
    """Share that are one's own earlier comparisons again, sides swapped."""
    gold_least: int = 10
    """Judgments on gold before the floor holds for an annotator."""
    gold_floor: float = 0.7
    """Share right on the latest gold below which judgments wait for review."""


_NUMBERS: dict[str, tuple[type, float, float]] = {
    "stock": (int, 0, 10_000),
    "quota": (int, 1, 20),
    "lease_minutes": (float, 0.05, 24 * 60),
    "held_out_share": (float, 0.0, 0.9),
    "round_pairs": (int, 2, 1_000_000),
    "overlap_share": (float, 0.0, 1.0),
    "min_posterior": (float, 0.5, 0.999),
    "gold_rate": (float, 0.0, 0.5),
    "repeat_rate": (float, 0.0, 0.5),
    "gold_least": (int, 1, 1000),
    "gold_floor": (float, 0.0, 1.0),
}
_CHOICES: dict[str, type[TextChoices]] = {
    "decide_by": DecideBy,
    "next_comparison": NextComparison,
}
_ROUND_CHOICES = {
    "preset": ("cumulative", "incremental"),
    "reference": ("base", "start"),
    "data": ("all", "new", "new_and_replay"),
}
"""As training names them (a test holds both alike); empty: as the preset has it."""
_FLAGS = ("auto_deploy", "accept_unchecked", "ask_strength")
_NAMES = [known.name for known in fields(ProjectSettings)]


def of(project: Project) -> ProjectSettings:
    """The project's settings, defaults filled in."""
    own = project.settings or {}
    defaults = ProjectSettings()
    # Only what is given is merged: this is read in every request of an annotator.
    given = [name for name in _NAMES if name in own]
    return ProjectSettings(
        **{name: merged(name, getattr(defaults, name), own[name]) for name in given}
    )


def merged(name: str, old: Any, new: Any) -> Any:
    """The setting `old` changed to `new`: of an object, what `new` doesn't name stays; of
    the rules, which are objects of objects, each rule's parameters likewise."""
    if not isinstance(new, dict):
        return new
    if name == "rules":
        new = {rule: {**old.get(rule, {}), **params} for rule, params in new.items()}
    return {**old, **new}


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings with numbers made int or float; only what was given.

    Raises SettingsError with all that is wrong, by dotted names such as
    rules.similarity.max_ratio.
    """
    return _each(_mapping("settings", settings), _setting)


def _each(given: dict[Any, Any], check: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    """Each value as `check(name, value)` has it; what is wrong is told of all of them."""
    result = {}
    wrong: list[tuple[str, str]] = []
    for name, value in given.items():
        try:
            result[name] = check(name, value)
        except SettingsError as error:
            wrong += error.errors
        if len(wrong) >= MOST_TOLD:
            break
    if wrong:
        raise SettingsError(*wrong[0], *wrong[1:])
    return result


def _setting(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        return _number(name, value, *_NUMBERS[name])
    if name in _FLAGS:
        return _flag(name, value)
    if name in _CHOICES:
        return _choice(name, value, _CHOICES[name].values)
    if name == "sampling":
        return _each(_mapping(name, value), _sampling)
    if name == "rules":
        return _each(_mapping(name, value), _rule)
    if name == "round":
        return _each(_mapping(name, value), _round)
    if name == "strength_weights":
        weights = _each(_mapping(name, value), _weight)
        return {str(strength): weight for strength, weight in weights.items()}
    if name == "ask_reasons":
        return _texts(name, value, 20, 60)
    if name == "criteria":
        # Few and short: each is a row of three buttons under every pair.
        return _texts(name, value, 6, 40)
    raise SettingsError(
        str(name),
        _("There is no setting “%(name)s”. Known: %(known)s.")
        % {"name": name, "known": ", ".join(_NAMES)},
    )


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(
            name,
            _("“%(name)s” must be an object of names and values.") % {"name": name},
        )
    return value


def _number(name: str, value: Any, kind: type, least: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # In this order: NaN, infinity and numbers of 400 digits end at the range.
    if (
        not is_number
        or not least <= value <= most
        or (kind is int and value != int(value))
    ):
        what = _("a whole number") if kind is int else _("a number")
        raise SettingsError(
            name,
            _("“%(name)s” must be %(what)s from %(least)s to %(most)s.")
            # Written out: by %g a million is 1e+06.
            % {
                **{"name": name, "what": what},
                **{"least": f"{least:.15g}", "most": f"{most:.15g}"},
            },
        )
    return kind(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError(
            name, _("“%(name)s” must be true or false.") % {"name": name}
        )
    return value


def _choice(name: str, value: Any, known: Collection[str]) -> str:
    if value not in known:
        raise SettingsError(
            name,
            _("“%(name)s” must be one of %(known)s.")
            % {"name": name, "known": ", ".join(known)},
        )
    return value


def _text(name: str, value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise SettingsError(
            name,
            _("“%(name)s” must be text of at most %(longest)d characters.")
            % {"name": name, "longest": longest},
        )
    return value


def _sampling(name: str, given: Any) -> Any:
    """Names and ranges are inference's; two answers at temperature 0 are the same."""
    dotted = f"sampling.{name}"
    if name == "system_prompt":
        return _text(dotted, given, 20_000)
    try:
        params = SamplingParams.from_dict({name: given})
    except (ValueError, TypeError) as wrong:
        raise SettingsError(dotted, retold(str(wrong))) from None
    if name == "temperature" and given == 0:
        raise SettingsError(
            dotted, _("At temperature 0 both answers are the same; set it above 0.")
        )
    return getattr(params, name)


def _rule(rule: str, params: Any) -> dict[str, Any]:
    if rule not in DEFAULT_RULES:
        raise SettingsError(
            f"rules.{rule}",
            _("There is no rule “%(name)s”. Known: %(known)s.")
            % {"name": rule, "known": ", ".join(DEFAULT_RULES)},
        )

    def param(name: str, given: Any) -> Any:
        dotted = f"rules.{rule}.{name}"
        if name not in DEFAULT_RULES[rule]:
            raise SettingsError(
                dotted, _("The rule has no parameter “%(name)s”.") % {"name": name}
            )
        return _rule_param(name, dotted, given)

    return _each(_mapping(f"rules.{rule}", params), param)


def _rule_param(name: str, dotted: str, given: Any) -> Any:
    """Of the kind that validation.py says; a flag where it says none."""
    if name in RULE_RANGES:
        return _number(dotted, given, *RULE_RANGES[name])
    if name in RULE_CHOICES:
        if given not in RULE_CHOICES[name]:
            raise SettingsError(
                dotted,
                _("“%(name)s” must be one of %(known)s.")
                % {"name": dotted, "known": ", ".join(RULE_CHOICES[name])},
            )
        return given
    if name in RULE_LISTS:
        return _texts(dotted, given, *RULE_LISTS[name])
    return _flag(dotted, given)


def _round(name: str, given: Any) -> Any:
    """What `config` and `start` name is looked up when a round starts."""
    dotted = f"round.{name}"
    if name == "config":
        return _mapping(dotted, given)
    if name not in ("preset", "start", "reference", "data"):
        raise SettingsError(
            dotted, _("A round has no setting “%(name)s”.") % {"name": name}
        )
    _text(dotted, given, 64)
    if given and name in _ROUND_CHOICES:
        _choice(dotted, given, _ROUND_CHOICES[name])
    return given


def _weight(name: str, given: Any) -> float:
    dotted = f"strength_weights.{name}"
    if str(name) not in ("1", "2", "3"):
        raise SettingsError(dotted, _("Strength is 1, 2 or 3."))
    return _number(dotted, given, float, 0.01, 100.0)


def _texts(name: str, value: Any, most: int, longest: int) -> list[str]:
    if not isinstance(value, list) or len(value) > most:
        raise SettingsError(
            name,
            _("“%(name)s” must be a list of at most %(most)d texts.")
            % {"name": name, "most": most},
        )
    texts = _each(
        dict(enumerate(value)),
        lambda number, one: _text(f"{name}.{number}", one, longest).strip(),
    )
    found = list(texts.values())
    if not all(found) or len(set(found)) != len(found):
        raise SettingsError(
            name, _("A text in the list must not be empty, nor there twice.")
        )
    return found

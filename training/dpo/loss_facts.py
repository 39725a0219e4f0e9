"""What is known of each loss beside its formula: where it is from, what it needs.

Read by config.json's checks, the warnings and the documentation, also in processes that
must not load torch. Leaves out the formulas; see `loss_pairs.py`, `loss_unpaired.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LossFacts:
    """One loss. `paper`: an arXiv id; `beta`: its usual range, None where it has none.

    `beta_source` says where that range was found. The others: reads label_smoothing;
    reads ld_alpha; needs reference log-probs; trains on single answers with a label
    instead of pairs; compares the pairs of a step with each other.
    """

    paper: str
    beta: tuple[float, float] | None
    beta_source: str
    smoothing: bool = False
    ld_alpha: bool = True
    needs_reference: bool = True
    unpaired: bool = False
    coupled: bool = False


_DPO = "0.01 (Zephyr, arXiv 2310.16944) to 0.5 (arXiv 2305.18290)"

LOSS_FACTS: dict[str, LossFacts] = {
    "sigmoid": LossFacts("2305.18290", (0.01, 0.5), _DPO, smoothing=True),
    "hinge": LossFacts("2305.10425", (0.01, 1.0), "0.05 in arXiv 2309.06657"),
    "ipo": LossFacts("2310.12036", (0.01, 1.0), "searched in arXiv 2405.14734"),
    "robust": LossFacts("2403.00409", (0.01, 0.5), "0.01 to 0.1 there", smoothing=True),
    "exo_pair": LossFacts("2402.00856", (0.05, 0.5), "0.1 there", smoothing=True),
    "nca_pair": LossFacts("2402.05369", (0.001, 0.1), "0.01 there, appendix C"),
    "bco_pair": LossFacts("2404.04656", (0.01, 0.1), "0.01 there, appendix C"),
    "sppo_hard": LossFacts("2405.00675", (0.0005, 0.01), "1/η, η = 1000 there"),
    "apo_zero": LossFacts("2408.06266", (0.01, 0.5), "0.1 there, section 5.2"),
    "apo_down": LossFacts("2408.06266", (0.01, 0.5), "0.1 there, section 5.2"),
    "sigmoid_norm": LossFacts(
        "2411.15124", (1.0, 10.0), "5 there: log-probs per token"
    ),
    "discopop": LossFacts("2406.08414", (0.01, 0.1), "0.05 there, appendix B"),
    "aot": LossFacts("2406.05882", (0.01, 0.5), _DPO, smoothing=True, coupled=True),
    "aot_unpaired": LossFacts(
        "2406.05882", (0.01, 0.5), _DPO, smoothing=True, coupled=True
    ),
    "sft": LossFacts("2404.19733", None, "", ld_alpha=False, needs_reference=False),
    "simpo": LossFacts(
        "2405.14734",
        (2.0, 10.0),
        "there and its repository: log-probs per token",
        smoothing=True,
        ld_alpha=False,
        needs_reference=False,
    ),
    "orpo": LossFacts(
        "2403.07691",
        (0.05, 1.0),
        "λ of 0.1 to 1 there",
        ld_alpha=False,
        needs_reference=False,
    ),
    "kto": LossFacts(
        "2402.01306", (0.01, 0.5), "0.1 there", ld_alpha=False, unpaired=True
    ),
    "apo_zero_unpaired": LossFacts(
        "2408.06266", (0.01, 0.5), "0.1 there", ld_alpha=False, unpaired=True
    ),
}
"""Every loss that config.json may name."""


def facts_of(names: Iterable[str]) -> list[LossFacts]:
    """The facts of these losses, in their order."""
    return [LOSS_FACTS[name] for name in names]


def is_unpaired(names: Iterable[str]) -> bool:
    """Whether they train on single answers with a label."""
    return any(facts.unpaired for facts in facts_of(names))


def reads_reference(names: Iterable[str], reference: str) -> bool:
    """Whether rewards are measured against a reference, by config.json's `reference`.

    SimPO and ORPO have none by their definition; "sft" has one if config says so: it
    changes no gradient, but gives the rewards that are shown.
    """
    names = set(names)
    if any(facts.needs_reference for facts in facts_of(names)):
        return True
    return reference != "none" and names == {"sft"}


def names_that(**wanted: bool) -> str:
    """The losses with such facts, quoted: '"sigmoid", "robust"'."""
    return ", ".join(
        f'"{name}"'
        for name, facts in LOSS_FACTS.items()
        if all(getattr(facts, key) == value for key, value in wanted.items())
    )

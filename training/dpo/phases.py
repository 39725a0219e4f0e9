"""The phases of a run as data: supervised training on the chosen answers, then DPO.

Steps are counted through all phases; each phase has its own passes over its pairs, its
own warm-up and decay, and its own optimizer. Leaves out what a phase does with a step's
pairs; see `METHODS` in `train.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.dpo.batches import Schedule
from training.dpo.config import TrainingConfig, loss_weights
from training.dpo.data import Pair
from training.dpo.defaults import Settled
from training.dpo.errors import TrainerError
from training.dpo.loss_facts import is_unpaired
from training.dpo.optim import learning_rate_at

SFT, DPO = "sft", "dpo"


@dataclass(frozen=True)
class Phase:
    """Steps `first` + 1 to `last` of a run.

    `members`: indexes of the run's pairs that it trains on; `schedule` counts in them.
    `tokens`: what a step of it costs on average, in tokens run through the model.
    """

    name: str
    schedule: Schedule
    members: Sequence[int]
    learning_rate: float
    tokens: float
    first: int = 0

    @property
    def last(self) -> int:
        """The run's step that ends it."""
        return self.first + self.schedule.total_steps

    def step_pairs(self, step: int) -> list[int]:
        """Indexes of the pairs of the run's step counted from 0."""
        places = self.schedule.step_pairs(step - self.first)
        return [self.members[place] for place in places]

    def epochs_done(self, step: int) -> float:
        """Passes over its pairs after `step` steps of the run."""
        return (step - self.first) / self.schedule.steps_per_epoch

    def rate_at(self, step: int, config: TrainingConfig) -> float:
        """Learning rate of the run's step counted from 0."""
        return learning_rate_at(
            step - self.first,
            self.schedule.total_steps,
            self.learning_rate,
            config.warmup_ratio,
            config.lr_scheduler,
        )


def plan_phases(
    config: TrainingConfig, settled: Settled, pairs: Sequence[Pair]
) -> list[Phase]:
    """The phases that `config` asks for, in order; the last one is DPO."""
    phases: list[Phase] = []

    def add(name: str, schedule: Schedule, members: Sequence[int], tokens: int) -> None:
        cost = tokens / len(members) * min(settled.batch_size, len(members))
        rate = settled.sft_learning_rate if name == SFT else settled.learning_rate
        first = phases[-1].last if phases else 0
        phases.append(Phase(name, schedule, members, rate, cost, first))

    if config.sft_epochs:
        good = [i for i, pair in enumerate(pairs) if getattr(pair, "label", True)]
        if not good:
            raise TrainerError(
                'config.json: "sft_epochs" trains on desirable answers, and pairs.jsonl'
                " has none; leave it out."
            )
        schedule = Schedule(
            len(good),
            settled.batch_size,
            config.sft_epochs,
            config.seed,
            config.shuffle,
        )
        add(SFT, schedule, good, sum(pairs[index].chosen_tokens for index in good))
    tokens = sum(pair.tokens for pair in pairs)
    add(DPO, dpo_schedule(config, settled, len(pairs)), range(len(pairs)), tokens)
    return phases


def dpo_schedule(config: TrainingConfig, settled: Settled, pairs: int) -> Schedule:
    """The steps of DPO. Labelled answers keep to their batches: a stray (`strays.py`)
    belongs to a batch, and its log-prob under the reference is then taken but once."""
    return Schedule(
        pairs,
        settled.batch_size,
        settled.epochs,
        config.seed,
        config.shuffle,
        keeps_batches=is_unpaired(loss_weights(config)),
    )


def work_left(phases: Sequence[Phase], step: int) -> float:
    """Tokens of the steps after `step`, about: what is left of the run."""
    return sum(
        p.tokens * (p.last - max(step, p.first)) for p in phases if p.last > step
    )

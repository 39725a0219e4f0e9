"""The phases of a run as data: supervised training on the chosen answers, then DPO.

Steps are counted through all phases; each phase has its own passes over its pairs, its
own warm-up and decay, and its own optimizer. Leaves out what a phase does with a step's
pairs; see `METHODS` in `train.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from training.dpo.batches import Schedule
from training.dpo.config import TrainingConfig
from training.dpo.data import Pair
from training.dpo.defaults import Settled
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
    members = range(len(pairs))

    def add(name: str, epochs: float, rate: float, tokens: int) -> None:
        schedule = Schedule(
            len(members), settled.batch_size, epochs, config.seed, config.shuffle
        )
        cost = tokens / len(members) * min(settled.batch_size, len(members))
        first = phases[-1].last if phases else 0
        phases.append(Phase(name, schedule, members, rate, cost, first))

    if config.sft_epochs:
        tokens = sum(pair.chosen_tokens for pair in pairs)
        add(SFT, config.sft_epochs, settled.sft_learning_rate, tokens)
    tokens = sum(pair.tokens for pair in pairs)
    add(DPO, settled.epochs, settled.learning_rate, tokens)
    return phases


def work_left(phases: Sequence[Phase], step: int) -> float:
    """Tokens of the steps after `step`, about: what is left of the run."""
    return sum(
        p.tokens * (p.last - max(step, p.first)) for p in phases if p.last > step
    )

"""What a run works on, and where it stands. Leaves out how either comes about."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from training.dpo.anchor import Anchor
from training.dpo.config import TrainingConfig
from training.dpo.defaults import Settled
from training.dpo.forward import Engine
from training.dpo.loss import Objective
from training.dpo.metrics_log import MetricsLog
from training.dpo.phases import Phase
from training.dpo.process import StopFlag
from training.dpo.reference import PairSet
from training.dpo.status import StatusFile


@dataclass
class Run:
    """What the loop works on. `model` is the PEFT model, `parameters` what trains.

    `source`: the checkpoint it goes on from. The reference in `data` and `held_out` is the base until DPO begins, where it is
    the weights after supervised training: `after_sft` is then their hash.
    `fingerprint`: {what a resume must find as it was: its digest}. `rendered_at`: what
    the chat template took for the time, in ISO form. `started_with`: of the phases that
    began, the held-out figures before their first step.
    """

    folder: Path
    source: Path | None
    config: TrainingConfig
    settled: Settled
    phases: list[Phase]
    objective: Objective
    engine: Engine
    model: Any
    parameters: dict[str, torch.nn.Parameter]
    data: PairSet
    held_out: PairSet | None
    fingerprint: dict[str, str]
    rendered_at: str
    stop: StopFlag
    status: StatusFile
    log: MetricsLog
    anchor: Anchor
    after_sft: str | None = None
    started_with: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model's rows go."""
        device: torch.device = self.engine.causal_lm.device
        return device

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all phases."""
        return self.phases[-1].last


@dataclass
class Position:
    """Where the run stands: steps done, running count of tokens, seconds trained."""

    step: int = 0
    num_tokens: int = 0
    seconds: float = 0.0

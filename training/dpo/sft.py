"""Supervised training on the chosen answers: its loss, its figures, its evaluation.

The loss is TRL's (SFTTrainer with `completion_only_loss`): cross-entropy averaged over
the answer tokens of the step, prompts aside. A pair of weight w counts as w copies of
it: Σ w·nll / Σ w·n, nll being an answer's summed −log p and n its tokens. Leaves out
the rejected answers, and with them every preference figure.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from training.dpo.backward import backward_each
from training.dpo.batches import Row, pair_rows
from training.dpo.data import Pair
from training.dpo.distributed import merge
from training.dpo.forward import RowScores
from training.dpo.run_state import Run


class SupervisedFigures:
    """Collects chosen answers and turns them into one object of metrics.

    `mean_token_accuracy`, `entropy` and `logits/chosen` are means over answer tokens,
    as TRL's are; `logps/chosen` and `drift/chosen` are means over answers.
    """

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.logps: list[float] = []
        self.drift: list[float] = []
        self.weighted_nll = self.weighted_tokens = 0.0
        self.tokens = self.hits = 0
        self.entropy = self.logits = 0.0

    def add(
        self,
        pairs: Sequence[Pair],
        indexes: list[int],
        scores: RowScores,
        base_logps: list[float],
    ) -> None:
        """Add the chosen answers of one forward pass, in the order of `indexes`."""
        logps = scores.logps.detach().tolist()
        self.indexes += indexes
        self.logps += logps
        for index, logp, base, length in zip(
            indexes, logps, base_logps, scores.lengths, strict=True
        ):
            self.weighted_nll -= pairs[index].weight * logp
            self.weighted_tokens += pairs[index].weight * length
            self.drift.append((logp - base) / length)
        self.tokens += sum(scores.lengths)
        self.hits += int(scores.is_top1.sum())
        self.entropy += float(scores.entropy.double().sum())
        self.logits += float(scores.mean_logit.double().sum())

    @property
    def pair_losses(self) -> list[float]:
        """Each answer's −log p."""
        return [-logp for logp in self.logps]

    @property
    def pair_drifts(self) -> list[float]:
        """Log-ratio to the base per token of each answer."""
        return self.drift

    @property
    def loss(self) -> float:
        """Σ weight · nll / Σ weight · tokens over the answers."""
        return self.weighted_nll / self.weighted_tokens

    def metrics(self, prefix: str = "") -> dict[str, Any]:
        """{TRL's name: value}; what is not a finite number becomes None."""
        values = {
            "loss": self.loss,
            "logps/chosen": sum(self.logps) / len(self.logps),
            "logits/chosen": self.logits / self.tokens,
            "entropy": self.entropy / self.tokens,
            "mean_token_accuracy": self.hits / self.tokens,
            "drift/chosen": sum(self.drift) / len(self.drift),
        }
        return {prefix + k: v if math.isfinite(v) else None for k, v in values.items()}


def supervised_step(run: Run, indexes: list[int]) -> SupervisedFigures:
    """Add the gradient of Σ weight·nll / Σ weight·tokens over `indexes`.

    Split into forward passes by memory; which answers share one changes nothing.
    """
    pairs = run.data.pairs
    rows = [_chosen_row(pairs[index]) for index in indexes]
    scored = [len(row.ids) - max(row.prompt_length, 1) for row in rows]
    total = sum(pairs[i].weight * n for i, n in zip(indexes, scored, strict=True))
    figures = SupervisedFigures()

    def loss_of(places: list[int]) -> tuple[Tensor, tuple[list[int], RowScores]]:
        scores = run.engine.score([rows[place] for place in places])
        part = [indexes[place] for place in places]
        logps = scores.logps
        shares = [pairs[index].weight / total for index in part]
        return (-logps * logps.new_tensor(shares)).sum(), (part, scores)

    parts = run.engine.split([[row] for row in rows])
    for part, scores in backward_each(run, loss_of, parts):
        figures.add(pairs, part, scores, run.data.base.chosen[part].tolist())
    return figures


def evaluate_supervised(run: Run) -> dict[str, Any]:
    """The held-out pairs' chosen answers, or the desirable ones (KTO), under `eval_…`
    names; nothing where there is none.
    """
    assert run.held_out is not None
    pairs = run.held_out.pairs
    good = [i for i, pair in enumerate(pairs) if getattr(pair, "label", True)]
    if not good:
        return {}
    run.status.phase("evaluating", len(good))
    rows = [_chosen_row(pairs[index]) for index in good]
    figures = SupervisedFigures()
    parts = run.engine.split([[row] for row in rows])
    passes = [[rows[place] for place in places] for places in parts]
    for places, scores in zip(parts, run.engine.score_each(passes), strict=True):
        part = [good[place] for place in places]
        figures.add(pairs, part, scores, run.held_out.base.chosen[part].tolist())
        run.status.progress(phase_done=len(figures.indexes))
    merge(figures)
    return figures.metrics("eval_")


def _chosen_row(pair: Pair) -> Row:
    return pair_rows(pair)[0]

"""The gradient of one optimizer step. Leaves out the optimizer and the loop; see
`train.py`.
"""

from training.dpo.batches import rows_of
from training.dpo.evaluate import figure_losses
from training.dpo.metrics import Figures
from training.dpo.run_state import Run


def backward_step(run: Run, indexes: list[int]) -> Figures:
    """Add the gradient of Σ weight·loss / Σ weight over `indexes` to the parameters.

    Split into forward passes by memory; which pairs share one changes nothing.
    """
    pairs = run.data.pairs
    total_weight = sum(pairs[index].weight for index in indexes)
    figures = Figures(run.objective.settings.beta)
    for part in run.engine.split_pairs(pairs, indexes):
        scores = run.engine.score(rows_of([pairs[index] for index in part]))
        losses, logps = figure_losses(scores, run.data, part, run.objective)
        shares = [pairs[index].weight / total_weight for index in part]
        (losses * losses.new_tensor(shares)).sum().backward()
        figures.add(run.data, part, scores, losses, logps)
    return figures

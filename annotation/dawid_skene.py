"""Whose verdicts to trust how far: Dawid and Skene's observer error rates by EM. Pure.

A. P. Dawid and A. M. Skene, Maximum Likelihood Estimation of Observer Error-Rates Using
the EM Algorithm, Applied Statistics 28 (1979), 20–28; equation numbers are theirs. Added
to the paper: labels that may be swapped (`mirror`), items whose truth is known, and error
rates drawn towards the average annotator's (`smoothing`), who is drawn towards saying what
is true (TRUTHFUL). Leaves out where judgments come from and where weights are kept
(`weighing.py`), and items of unequal difficulty: given the truth, annotators err
independently here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UNKNOWN = -1
"""In `truth`: nobody has said what this item is."""

TRUTHFUL = (8, 0.6)
"""Judgments of each true label that the average annotator is given beforehand, and the
share of them that says that label; the rest is spread over the others. Without them no
truth is tied to its own name, and a label that nobody gave explains disagreement as well
as error does. A Dirichlet prior of each row with a heavy diagonal is how Bayesian forms of
the model tell labels apart (Kim and Ghahramani 2012); 8 and 0.6 are the defaults of
Pullin, Gurrin and Vukcevic's `rater` (The R Journal 15, 2023).
"""


@dataclass(frozen=True)
class Fit:
    """I items, K annotators, J labels."""

    prior: Floats
    """(J,): how common each true label is, p of (2.4)."""
    errors: Floats
    """(K, J, J): [k, j, l] is the probability that annotator k says l where j is true,
    pi of (2.3)."""
    average: Floats
    """(J, J): the same of all judgments together; what an annotator without any has."""
    posteriors: Floats
    """(I, J): probability of each true label given the item's judgments, T of (2.5)."""
    iterations: int
    has_converged: bool


def fit(
    items: ArrayLike,
    annotators: ArrayLike,
    labels: ArrayLike,
    *,
    n_labels: int,
    mirror: Sequence[int] | None = None,
    truth: ArrayLike | None = None,
    smoothing: float = 0.0,
    tolerance: float = 1e-6,
    most_iterations: int = 500,
) -> Fit:
    """Fit (N,) judgments: whole numbers from 0 saying which item, who, and which label.

    It starts from the shares of each item's labels, soft majorities (3.1), and stops when
    no posterior moves by more than `tolerance`. An annotator may judge an item several
    times. Every item needs a judgment.

    `mirror[l]` is the label that l becomes when an item's two sides are swapped. Where
    sides are arbitrary, truth and errors must not depend on them: each M-step then counts
    every item together with its mirror image. `truth` (I,) has the label of items where it
    is known, else UNKNOWN. `smoothing`: so many judgments of each true label, divided as
    the average annotator divides theirs, are added to what each annotator gave, and
    TRUTHFUL to what all gave together; 0 is the paper's maximum likelihood.

    Raises ValueError for arrays of unequal length, without judgments, or out of range.
    """
    item, who, label = (
        np.asarray(a, dtype=np.int64) for a in (items, annotators, labels)
    )
    n_items, n_annotators = _sizes(item, who, label, n_labels)
    known = _known(truth, n_items, n_labels)

    seen = np.bincount(item * n_labels + label, minlength=n_items * n_labels)
    votes: Floats = seen.reshape(n_items, n_labels).astype(np.float64)
    if (votes.sum(1) == 0).any():
        raise ValueError("an item has no judgment")
    posteriors = _with_truth(votes / votes.sum(1, keepdims=True), known)  # (3.1)

    cell = who * n_labels + label
    has_converged, iterations = False, 0
    while not has_converged and iterations < most_iterations:
        prior, errors, average = _m_step(
            posteriors, item, cell, n_annotators, mirror, smoothing
        )
        updated = _with_truth(_e_step(item, who, label, n_items, prior, errors), known)
        has_converged = bool(np.abs(updated - posteriors).max() <= tolerance)
        posteriors = updated
        iterations += 1
    return Fit(prior, errors, average, posteriors, iterations, has_converged)


def posterior(prior: ArrayLike, errors: ArrayLike, labels: Sequence[int]) -> Floats:
    """(J,) probabilities of the true label of one item, (2.5).

    `errors` (n, J, J) are those of the annotators who gave the n `labels`, in this order.
    Where the weights hold all of it impossible, nothing is known: all are equal.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(np.asarray(prior, dtype=float))
        for rates, label in zip(np.asarray(errors, dtype=float), labels, strict=True):
            logs = logs + np.log(rates[:, label])
    return _normalised(logs[None])[0]


def _m_step(
    posteriors: Floats,
    item: Ints,
    cell: Ints,
    n_annotators: int,
    mirror: Sequence[int] | None,
    smoothing: float,
) -> tuple[Floats, Floats, Floats]:
    """(2.3) and (2.4), smoothed; `cell` is annotator and label as one number."""
    n_labels = posteriors.shape[1]
    size = n_annotators * n_labels
    said = np.stack(
        [
            np.bincount(cell, weights=posteriors[item, true], minlength=size).astype(
                np.float64
            )
            for true in range(n_labels)
        ]
    )
    # (J true, K, J said) → (K, J true, J said)
    counts: Floats = said.reshape(n_labels, n_annotators, n_labels).transpose(1, 0, 2)
    prior: Floats = posteriors.mean(0)
    if mirror is not None:
        swapped = list(mirror)
        counts = (counts + counts[:, swapped][:, :, swapped]) / 2
        prior = (prior + prior[swapped]) / 2
    if smoothing:
        prior = (posteriors.shape[0] * prior + 1) / (posteriors.shape[0] + n_labels)
        average = _rates(counts.sum(0) + _truthful(n_labels))
        counts = counts + smoothing * average
    else:
        average = _rates(counts.sum(0))
    return prior, _rates(counts), average


def _e_step(
    item: Ints, who: Ints, label: Ints, n_items: int, prior: Floats, errors: Floats
) -> Floats:
    """(2.5) for every item."""
    with np.errstate(divide="ignore"):
        log_prior, log_errors = np.log(prior), np.log(errors)
    logs = np.stack(
        [
            np.bincount(item, weights=log_errors[who, true, label], minlength=n_items)
            for true in range(len(prior))
        ],
        axis=1,
    )
    return _normalised(logs + log_prior)


def _normalised(logs: Floats) -> Floats:
    """Probabilities (I, J) of their unnormalised logarithms."""
    highest = logs.max(1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    return _rates(np.exp(logs - highest))


def _rates(counts: Floats) -> Floats:
    """Each row divided by its sum; a true label that nothing was counted for: all alike."""
    sums = counts.sum(-1, keepdims=True)
    return np.where(
        sums > 0, counts / np.where(sums > 0, sums, 1), 1 / counts.shape[-1]
    )


def _truthful(n_labels: int) -> Floats:
    """(J true, J said) judgments, the sum of each row and its diagonal as TRUTHFUL says."""
    judgments, right = TRUTHFUL
    wrong = np.full((n_labels, n_labels), (1 - right) / max(n_labels - 1, 1))
    np.fill_diagonal(wrong, right)
    return judgments * wrong


def _with_truth(posteriors: Floats, known: Ints) -> Floats:
    certain = np.flatnonzero(known != UNKNOWN)
    posteriors[certain] = 0.0
    posteriors[certain, known[certain]] = 1.0
    return posteriors


def _sizes(item: Ints, who: Ints, label: Ints, n_labels: int) -> tuple[int, int]:
    if not (item.shape == who.shape == label.shape == (item.size,)) or not item.size:
        raise ValueError("items, annotators and labels must be equally long, not empty")
    if min(item.min(), who.min(), label.min()) < 0 or label.max() >= n_labels:
        raise ValueError(f"labels must be from 0 to {n_labels - 1}, the others from 0")
    return int(item.max()) + 1, int(who.max()) + 1


def _known(truth: ArrayLike | None, n_items: int, n_labels: int) -> Ints:
    if truth is None:
        return np.full(n_items, UNKNOWN)
    known = np.asarray(truth, dtype=np.int64)
    if known.shape != (n_items,) or known.max() >= n_labels or known.min() < UNKNOWN:
        raise ValueError("truth must have one label, or UNKNOWN, for each item")
    return known

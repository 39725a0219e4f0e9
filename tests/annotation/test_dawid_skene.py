"""Dawid and Skene's estimator: against their own data, by hand, and on made-up people."""

import itertools
import math

import numpy as np
import pytest

from annotation.dawid_skene import UNKNOWN, fit, posterior

# Table 1 of the paper: 45 patients classed 1 to 4; each group is one anaesthetist, the
# first of whom saw every form three times.
ANAESTHETISTS = """
111 1 1 1 1|333 4 3 3 4|112 2 1 2 2|222 3 1 2 1|222 3 2 2 2|222 3 3 2 2|122 2 1 1 1
333 3 4 3 3|222 2 2 2 3|232 2 2 2 3|444 4 4 4 4|222 3 3 4 3|111 1 1 1 1|222 3 2 1 2
121 1 1 1 1|111 2 1 1 1|111 1 1 1 1|111 1 1 1 1|222 2 2 2 1|222 1 3 2 2|222 2 2 2 2
222 2 2 2 1|222 3 2 2 2|221 2 2 2 2|111 1 1 1 1|111 1 1 1 1|232 2 2 2 2|111 1 1 1 1
111 1 1 1 1|112 1 1 2 1|111 1 1 1 1|333 3 2 3 3|111 1 1 1 1|222 2 2 2 2|222 3 2 3 2
433 4 3 4 3|221 2 2 3 2|232 3 2 3 3|333 3 4 3 2|111 1 1 1 1|111 1 1 1 1|121 2 1 1 1
232 2 2 2 2|121 1 1 1 1|222 2 2 2 2
"""
SIDES = (1, 0, 2, 3)
"""Of the labels a, b, tie, both bad: what each is when a and b are swapped."""


def anaesthetists():
    patients = ANAESTHETISTS.strip().replace("\n", "|").split("|")
    rows = [
        (patient, who, int(said) - 1)
        for patient, groups in enumerate(patients)
        for who, group in enumerate(groups.split())
        for said in group
    ]
    return zip(*rows, strict=True)


def test_the_papers_own_data_give_the_papers_estimates():
    """The class marginals .40, .42, .11, .07, and the first anaesthetist's error rates."""
    fitted = fit(*anaesthetists(), n_labels=4)
    assert fitted.has_converged
    assert fitted.prior.round(2).tolist() == [0.40, 0.42, 0.11, 0.07]
    assert fitted.errors[0].round(2).tolist() == [
        [0.89, 0.11, 0.00, 0.00],
        [0.07, 0.88, 0.05, 0.00],
        [0.00, 0.34, 0.66, 0.00],
        [0.00, 0.00, 0.56, 0.44],
    ]
    # Patients 1, 3 and 11 are clear; 36 is a 4 though half of the classings say 3.
    assert (fitted.posteriors.argmax(1) + 1)[[0, 2, 10, 35]].tolist() == [1, 2, 4, 4]


def log_likelihood(fitted, items, annotators, labels):
    """The natural logarithm of (2.7) at the fit's prior and error rates."""
    likely = np.tile(fitted.prior, (max(items) + 1, 1))
    for item, who, label in zip(items, annotators, labels, strict=True):
        likely[item] *= fitted.errors[who, :, label]
    return float(np.log(likely.sum(1)).sum())


def test_each_step_makes_the_data_likelier():
    """What makes it an EM: (2.7) never falls, and the sums stay sums."""
    found = [fit(*anaesthetists(), n_labels=4, most_iterations=n) for n in range(1, 12)]
    likelihoods = [log_likelihood(fitted, *anaesthetists()) for fitted in found]
    assert likelihoods == sorted(likelihoods)
    for fitted in found:
        assert np.allclose(fitted.posteriors.sum(1), 1)
        assert np.allclose(fitted.errors.sum(2), 1)


def test_a_posterior_by_hand():
    """prior (.5, .5); the first is right 9 times in 10, the second 6 in 10; they say 0
    and 1: .5·.9·.4 = .18 against .5·.1·.6 = .03, so .18/.21 = 6/7."""
    rates = [[[0.9, 0.1], [0.1, 0.9]], [[0.6, 0.4], [0.4, 0.6]]]
    assert posterior([0.5, 0.5], rates, [0, 1]) == pytest.approx([6 / 7, 1 / 7])


def test_one_step_by_hand():
    """Two items, two annotators: (0, 0) and (0, 1). Soft majorities are (1, 0) and
    (1/2, 1/2). M: prior (3/4, 1/4). The first said 0 both times: rates of truth 0 are
    (1, 0), of truth 1 (1, 0). The second said 0 on the first item, 1 on the second: for
    truth 0 (1, 1/2) of 3/2, so (2/3, 1/3); for truth 1 (0, 1/2), so (0, 1). E: item two
    is 3/4·1·1/3 = 1/4 against 1/4·1·1 = 1/4; item one 3/4·2/3 = 1/2 against 0."""
    fitted = fit(
        [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1], n_labels=2, most_iterations=1
    )
    assert fitted.prior == pytest.approx([3 / 4, 1 / 4])
    assert fitted.errors[1] == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))
    assert fitted.posteriors == pytest.approx(np.array([[1, 0], [1 / 2, 1 / 2]]))
    # What the items' two products sum to, with both truths: 1/2 each.
    judgments = [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]
    assert log_likelihood(fitted, *judgments) == pytest.approx(2 * math.log(1 / 2))


def simulated(skills, n_items, seed=0):
    """Labels of annotators who are right with their skill."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, n_items, p=[0.4, 0.4, 0.1, 0.1])
    rows = []
    for item, true in enumerate(truth):
        for who, skill in enumerate(skills):
            wrong = rng.choice([label for label in range(4) if label != true])
            rows.append((item, who, true if rng.random() < skill else wrong))
    return truth, [np.array(column) for column in zip(*rows, strict=True)]


def majority(columns, n_items):
    votes = np.zeros((n_items, 4))
    np.add.at(votes, (columns[0], columns[2]), 1)
    return votes


def test_where_all_err_alike_it_is_the_majority():
    """Every label eight times by all three, and by two against one in every way."""
    patterns = [(label,) * 3 for label in range(4)] * 8
    patterns += [
        pattern
        for pattern in itertools.product(range(4), repeat=3)
        if len(set(pattern)) == 2
    ]
    rows = [
        (item, who, label)
        for item, pattern in enumerate(patterns)
        for who, label in enumerate(pattern)
    ]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    fitted = fit(*columns, n_labels=4, mirror=SIDES, smoothing=10)
    votes = majority(columns, len(patterns)).argmax(1)
    assert fitted.posteriors.argmax(1).tolist() == votes.tolist()
    assert np.allclose(fitted.errors, fitted.errors[0])
    assert np.allclose(fitted.errors[0], fitted.average, atol=0.02)


@pytest.mark.parametrize("many", [20, 60, 1000])
@pytest.mark.parametrize("label", range(4))
def test_what_all_say_always_is_what_is_true(many, label):
    """Two annotators, one label: nobody ever contradicts, so it is all but certain."""
    items = np.repeat(np.arange(many), 2)
    who = np.tile([0, 1], many)
    fitted = fit(items, who, [label] * 2 * many, n_labels=4, mirror=SIDES, smoothing=10)
    assert (fitted.posteriors.argmax(1) == label).all()
    assert fitted.posteriors[:, label].min() > 0.95


@pytest.mark.parametrize("many", [20, 60, 1000])
def test_labels_that_nobody_gave_do_not_explain_disagreement(many):
    """Two annotators say a or b only and agree on three of four items. If both are right
    with q, they agree with q² + (1 − q)² = 3/4, so q = 0.854 and what both say is true
    with q² / (3/4) = 0.971; the errors beforehand make that a little less."""
    patterns = [(0, 0), (1, 1), (0, 1), (0, 0), (1, 1), (1, 0), (0, 0), (1, 1)]
    labels = [label for item in range(many) for label in patterns[item % 8]]
    items, who = np.repeat(np.arange(many), 2), np.tile([0, 1], many)
    fitted = fit(items, who, labels, n_labels=4, mirror=SIDES, smoothing=10)
    for item in range(many):
        one, other = patterns[item % 8]
        if one == other:
            assert 0.9 < fitted.posteriors[item, one] < 0.98
        else:
            assert fitted.posteriors[item, :2] == pytest.approx([0.5, 0.5], abs=0.02)
    assert fitted.prior[2:].max() < 0.05


def test_one_who_says_a_or_b_at_random_decides_little():
    """Beside two who are right nine times in ten, none of whom ever says tie."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 200)
    said = [np.where(rng.random(200) < q, truth, 1 - truth) for q in (0.9, 0.9, 0.5)]
    items, who = np.repeat(np.arange(200), 3), np.tile([0, 1, 2], 200)
    labels = np.stack(said, 1).ravel()
    fitted = fit(items, who, labels, n_labels=4, mirror=SIDES, smoothing=10)
    chances = posterior(fitted.prior, fitted.errors, [0, 0, 1])
    assert chances[0] > 0.95
    assert fitted.errors[2, 0, :2] == pytest.approx([0.5, 0.5], abs=0.1)


def test_one_who_is_careful_outweighs_two_who_guess():
    truth, columns = simulated([0.95, 0.45, 0.45], 1500)
    fitted = fit(*columns, n_labels=4, mirror=SIDES, smoothing=10)
    right = (fitted.posteriors.argmax(1) == truth).mean()
    by_majority = (majority(columns, len(truth)).argmax(1) == truth).mean()
    assert right > 0.9 > by_majority
    accuracy = np.einsum("j,kjj->k", fitted.prior, fitted.errors)
    assert accuracy[0] > 0.8 and (accuracy[1:] < 0.6).all()


def test_which_answer_is_a_changes_nothing_where_sides_are_swapped_alike():
    truth, columns = simulated([0.9, 0.7, 0.6], 300)
    swapped = np.array(SIDES)
    flip = np.random.default_rng(1).random(len(truth)) < 0.5
    items, who, labels = columns
    other = np.where(flip[items], swapped[labels], labels)
    one = fit(items, who, labels, n_labels=4, mirror=SIDES, smoothing=10)
    two = fit(items, who, other, n_labels=4, mirror=SIDES, smoothing=10)
    assert np.allclose(one.errors, two.errors)
    assert one.prior[0] == pytest.approx(one.prior[1])
    back = np.where(flip[:, None], two.posteriors[:, swapped], two.posteriors)
    assert np.allclose(one.posteriors, back)


def test_who_has_judged_little_weighs_much_like_the_average():
    _truth, columns = simulated([0.9, 0.9, 0.9], 200)
    # A newcomer with two judgments, both against everybody.
    items = np.append(columns[0], [0, 1])
    who = np.append(columns[1], [3, 3])
    wrong = [(columns[2][0] + 1) % 4, (columns[2][3] + 1) % 4]
    labels = np.append(columns[2], wrong)
    fitted = fit(items, who, labels, n_labels=4, mirror=SIDES, smoothing=10)
    newcomer = fitted.errors[3].diagonal().mean()
    assert newcomer > 0.75
    assert newcomer < fitted.average.diagonal().mean()


def test_what_a_reviewer_said_is_true_and_teaches_the_weights():
    _truth, columns = simulated([0.8, 0.8, 0.8], 200)
    items, who, labels = columns
    known = np.full(200, UNKNOWN)
    # On forty items the reviewer sides with the third against whatever they say.
    known[:40] = labels[(who == 2) & (items < 40)]
    plain = fit(*columns, n_labels=4, mirror=SIDES, smoothing=10)
    taught = fit(*columns, n_labels=4, mirror=SIDES, smoothing=10, truth=known)
    assert (taught.posteriors[np.arange(40), known[:40]] == 1).all()
    accuracy = [f.errors[2].diagonal().mean() for f in (plain, taught)]
    assert accuracy[1] > accuracy[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ([], [], []),
        ([0, 1], [0], [0, 1]),
        ([0, 2], [0, 0], [0, 1]),  # item 1 has no judgment
        ([0], [0], [2]),
        ([-1], [0], [0]),
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        fit(*arguments, n_labels=2)


def test_weights_that_hold_it_impossible_say_nothing():
    certain = [[[1.0, 0.0], [0.0, 1.0]]] * 2
    assert posterior([0.5, 0.5], certain, [0, 1]).tolist() == [0.5, 0.5]

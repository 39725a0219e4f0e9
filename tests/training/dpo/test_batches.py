"""Which pairs make a step, and how a step is split by memory."""

from training.dpo.batches import (
    Row,
    Schedule,
    length_groups,
    micro_batches,
    tree_batches,
)


def pair(length):
    return Row([1] + [2] * (length - 1), 1), Row([1, 3], 1)


def test_every_pair_comes_once_an_epoch_in_a_new_order():
    """10 pairs by 4: steps of 4, 4 and 2, three epochs."""
    schedule = Schedule(pairs=10, batch_size=4, epochs=3, seed=1, shuffle=True)
    assert schedule.total_steps == 9
    steps = [schedule.step_pairs(step) for step in range(9)]
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    epochs = [sum(steps[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_depends_on_the_seed_alone():
    same = [Schedule(20, 4, 1, 7, True).step_pairs(3) for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != Schedule(20, 4, 1, 8, True).step_pairs(3)


def test_without_shuffling_the_files_order_stays():
    assert Schedule(5, 2, 2, 1, False).step_pairs(4) == [2, 3]


def test_part_of_an_epoch_ends_with_a_whole_step():
    """10 steps an epoch, 0.25 epochs: 2.5 steps, so 3."""
    assert Schedule(10, 1, 0.25, 1, False).total_steps == 3


def test_forward_passes_hold_pairs_of_like_length_within_the_budget():
    """Lengths 9, 2, 8, 3 and 40 tokens a pass of two rows a pair: 9 and 8 together
    need 4 · 9 = 36, with 3 they would need 54; 3 and 2 need 12. 30 alone exceeds the
    budget and still goes, alone."""
    pairs = [pair(n) for n in (9, 2, 8, 3, 30)]
    assert micro_batches(pairs, 40, None) == [[4], [0, 2], [3, 1]]
    assert micro_batches(pairs, 40, 1) == [[4], [0], [2], [3], [1]]


def test_rows_of_like_length_go_together_where_it_saves_more_than_a_call():
    """Lengths 100, 20, 90, 10. One group pads to 4 · 100 = 400; {100, 90} and {20, 10}
    to 200 + 40 = 240 and one more call: better at a call of 50 tokens (340 against
    450, and 230 + 150 = 380 for three groups), worse at 200 (640 against 600)."""
    lengths = [100, 20, 90, 10]
    assert length_groups(lengths, 50) == [[0, 2], [1, 3]]
    assert length_groups(lengths, 200) == [[0, 2, 1, 3]]
    assert length_groups([7], 50) == [[0]]


def test_pairs_that_begin_alike_share_a_pass_beyond_its_usual_size():
    """Rows of 40 + 10 tokens, two a pair: 60 tokens with the prompt once, 20 for each
    further pair. A pass of 64 may so grow to 256: the first pair and nine more are 240.
    A pair of another prompt, and one that saves 8 of its 68 tokens, less than a fifth,
    do not join."""
    prompt = list(range(100, 140))

    def pair(number, prompt):
        answers = [
            [1000 + 100 * number + 10 * side + at for at in range(10)]
            for side in (0, 1)
        ]
        return [Row(prompt + answer, len(prompt)) for answer in answers]

    alike = [pair(number, prompt) for number in range(12)]
    other = [pair(20, list(range(300, 340)))]
    hardly = [pair(30, prompt[:8] + list(range(400, 440)))]

    def sizes(items):
        return sorted(map(len, tree_batches(items, 64, None, 4)))

    assert sizes(alike) == [2, 10]
    assert sizes(alike[:3] + other) == [1, 3]
    assert sizes(alike[:3] + hardly) == [1, 3]
    assert sizes(alike[:3]) == [3]


def test_the_longest_pass_comes_first():
    """Of several at once none is then left for the end."""
    pairs = [[Row([10 * n] + [1] * n, 1)] for n in (3, 9, 5)]
    assert tree_batches(pairs, 1, None, 4) == [[1], [2], [0]]


def test_a_pass_is_split_for_idle_lanes_where_its_halves_are_short_enough():
    """Four pairs of one prompt, answers of 10 tokens: 20 a pair and the prompt once.
    With a prompt of 20 that is 100, a half 60, 0.6 of it; with one of 40 it is 120, a
    half 80, 0.67 of it, and 0.65 is allowed."""

    def group(length):
        prompt = list(range(100, 100 + length))
        return [
            [
                Row(prompt + [1000 + 40 * n + 20 * side + i for i in range(10)], length)
                for side in (0, 1)
            ]
            for n in range(4)
        ]

    def passes(items, lanes):
        return tree_batches(items, 4096, None, 4, lanes)

    assert passes(group(20), 1) == [[0, 1, 2, 3]]
    assert passes(group(20), 2) == [[0, 1], [2, 3]]
    assert passes(group(40), 2) == [[0, 1, 2, 3]]
    # 60 in two passes of one pair: 40 each, 0.67.
    assert passes(group(20), 4) == [[0, 1], [2, 3]]
    assert passes(group(20)[:1], 2) == [[0]]
    assert passes([], 2) == []

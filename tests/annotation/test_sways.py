"""What sways verdicts, counted of judgments, of pairs, and of the pairs of rounds."""

import pytest

from annotation.figures import packed, unpacked
from annotation.models import PreferencePair
from annotation.queries import sound_pairs
from annotation.shares import share
from annotation.sways import SWAYS, USUAL, bias, by_group, flags, of_pairs
from annotation.words import flag_words
from tests.factories import (
    make_comparison,
    make_completion,
    make_imported,
    make_judgment,
    make_lease,
    make_pair,
    make_prompt,
    make_user,
)
from training.models import RoundPair, TrainingRound

pytestmark = pytest.mark.both_databases

SHORT, LONG = "Take six minutes.", "# Eggs\n- **water**\n- six minutes"
CHINESE = "水开后煮六分钟"


@pytest.fixture
def judged(project):
    """`judged(won, lost, who, asked=…, shown_first=True)`: a sound pair and what it
    came of."""

    def judged(won, lost, who, asked="How long?", shown_first=True, **fields):
        prompt = make_prompt(project=project, messages=_question(asked))
        a, b = (make_completion(text, prompt=prompt) for text in (won, lost))
        lease = make_lease(
            comparison=make_comparison(a=a, b=b, quota=2),
            annotator=who,
            first=a if shown_first else b,
            second=b if shown_first else a,
        )
        judgment = make_judgment(
            lease=lease, verdict="first" if shown_first else "second"
        )
        return make_pair(judgment=judgment, **fields)

    return judged


_asked = iter(range(10_000))


def _question(text):
    # The same prompt is there once; a number keeps the script.
    return [{"role": "user", "content": f"{text} {next(_asked)}"}]


def counts(row, *names):
    return [(row[name].count, row[name].of) for name in names or SWAYS]


def test_pairs_are_counted_with_the_judgments_behind_them(
    project, annotator, other_annotator, judged
):
    """Alice: long over short shown first, short over long shown second. Bob: long over
    short shown second. A rejected pair, and one held out, are not among the sound."""
    judged(LONG, SHORT, annotator)
    judged(SHORT, LONG, annotator, shown_first=False)
    judged(LONG, SHORT, other_annotator, shown_first=False)
    judged(LONG, SHORT, annotator, state="rejected")
    held_out = judged(LONG, SHORT, annotator)
    held_out.prompt.is_held_out = True
    held_out.prompt.save()
    found = of_pairs(sound_pairs(project))
    assert found["pairs"] == 3
    assert counts(found, "first", "longer", "marked") == [(1, 3), (2, 3), (2, 3)]
    by_name = {row["username"]: counts(row, "first") for row in found["annotators"]}
    assert by_name == {"alice": [(1, 2)], "bob": [(0, 1)]}
    # Of all verdicts, those of pairs that are not sound count as well.
    assert counts(bias(project), "first", "longer") == [(3, 5), (4, 5)]


def test_an_undone_judgment_and_a_tie_sway_nothing(project, annotator, judged):
    pair = judged(LONG, SHORT, annotator)
    comparison = pair.decision.comparison
    make_judgment(comparison=comparison, verdict="tie")
    found = of_pairs(sound_pairs(project))
    assert counts(found, "first") == [(1, 1)]
    comparison.judgments.update(undone_at="2026-01-01T00:00Z")
    assert of_pairs(sound_pairs(project))["annotators"] == []


def test_an_imported_pair_counts_though_nobody_judged_it(project):
    make_imported(make_prompt("How long?", project=project), LONG, SHORT)
    found = of_pairs(sound_pairs(project))
    assert counts(found, "first", "longer") == [(0, 0), (1, 1)]
    assert bias(project) is None


def test_scripts_tell_whether_an_answer_keeps_to_the_prompts_language(
    project, annotator, judged
):
    """Asked in Chinese: Latin beats Chinese, Chinese beats Latin, Latin beats Latin.
    Asked in English: Latin beats Chinese. Digits alone have no script.

    The prompt's script won 2 of the 3 in which one answer alone is in it; 2 of the 4
    winners with letters strayed, both of those that beat the prompt's or each other."""
    judged(SHORT, CHINESE, annotator, asked="要多久？")
    judged(CHINESE, SHORT, annotator, asked="要多久？")
    judged(SHORT, LONG, annotator, asked="要多久？")
    judged(SHORT, CHINESE, annotator)
    judged("6", CHINESE, annotator)
    for found in (of_pairs(sound_pairs(project)), bias(project)):
        assert counts(found, "own", "strayed") == [(2, 3), (2, 4)]


def test_pairs_of_rounds_are_reported_round_by_round(
    project, annotator, judged, django_assert_num_queries
):
    pairs = [judged(LONG, SHORT, annotator) for _ in range(2)]
    pairs.append(judged(SHORT, LONG, annotator, shown_first=False))
    # The better answer edited: a second pair of the same judgment.
    edited = make_completion(
        LONG + " or seven",
        prompt=pairs[0].prompt,
        source="edited",
        policy=None,
        edited_from=pairs[0].chosen,
    )
    pairs.append(
        PreferencePair.objects.create(
            project=project,
            prompt=pairs[0].prompt,
            decision=pairs[0].decision,
            kind="edited",
            chosen=edited,
            rejected=pairs[0].chosen,
            state="accepted",
        )
    )
    for number, taken in ((1, [pairs[0], pairs[3]]), (2, pairs)):
        training_round = TrainingRound.objects.create(
            project=project,
            number=number,
            state="failed",
            start=project.base,
            reference="base",
            data="all",
        )
        for pair in taken:
            RoundPair.objects.create(training_round=training_round, pair=pair)
    with django_assert_num_queries(2):
        found = by_group(RoundPair.objects.all(), "training_round__number", "pair")
    assert {number: row["pairs"] for number, row in found.items()} == {1: 2, 2: 4}
    assert counts(found[1], "first", "longer") == [(1, 1), (2, 2)]
    assert counts(found[2], "first", "longer") == [(2, 3), (3, 4)]


def report(**shares):
    return {sway: shares.get(sway, share(0, 0)) for sway in SWAYS}


@pytest.mark.parametrize(
    ("sway", "count", "of", "is_flagged"),
    [
        # Wilson: 600 of 1000 is 56.9 to 63.0 %, beyond 55; 580 starts at 54.9 %.
        ("first", 600, 1000, True),
        ("first", 580, 1000, False),
        ("first", 400, 1000, True),
        # 51 % of 100,000 excludes one half, by less than matters.
        ("first", 51_000, 100_000, False),
        # 640 of 1000: 61.0 to 66.9 %; 620: 59.0 % is within.
        ("longer", 640, 1000, True),
        ("longer", 620, 1000, False),
        ("marked", 3, 3, False),
        ("own", 90, 100, False),
        ("own", 30, 100, True),
        # 12 of 100: 7.0 % at least; 8 of 100: 4.1 %.
        ("strayed", 12, 100, True),
        ("strayed", 8, 100, False),
        ("strayed", 0, 0, False),
    ],
)
def test_a_share_is_flagged_where_its_whole_interval_is_unusual(
    sway, count, of, is_flagged
):
    found = flags(report(**{sway: share(count, of)}))
    assert [flag["sway"] for flag in found] == ([sway] if is_flagged else [])


def test_every_flag_there_can_be_has_words():
    for sway, (least, most) in USUAL.items():
        for count in (0, 1000):
            for flag in flags(report(**{sway: share(count, 1000)}), "alice"):
                assert "alice" in flag_words(flag) and "%" in flag_words(flag)
        assert least < most


def test_words_say_who_won_not_only_that_it_is_odd():
    (flag,) = flags(report(first=share(300, 1000)))
    assert flag_words(flag) == (
        "The answer shown second wins too often: 70 % (67–73) of 1000."
    )
    (flag,) = flags(report(longer=share(700, 1000)), "bob")
    assert flag_words(flag).startswith("bob: Longer answers win")


def test_what_several_say_of_one_comparison_counts_as_one(project):
    """Six comparisons of a long and a short answer, each judged by four, the long one wins
    in four: 16 of 24, but as sure as 24² / (6 · 4²) = 6 that do not come in fours. Sides
    are drawn for each judgment, and each person judges a comparison once: those stay."""
    people = [make_user(project=project) for _ in range(4)]
    for number in range(6):
        prompt = make_prompt(project=project)
        a, b = (make_completion(text, prompt=prompt) for text in (LONG, SHORT))
        comparison = make_comparison(a=a, b=b, quota=4)
        for who in people:
            lease = make_lease(comparison=comparison, annotator=who, first=a, second=b)
            make_judgment(lease=lease, verdict="first" if number < 4 else "second")
    found = bias(project)
    assert counts(found, "longer", "marked") == [(16, 24)] * 2
    six = share(4, 6)
    for sway in ("longer", "marked"):
        assert (found[sway].low, found[sway].high) == (six.low, six.high)
    assert found["first"] == share(16, 24)
    assert [row["longer"] for row in found["annotators"]] == [six] * 4
    # What is kept for a big project's page says the same.
    assert unpacked(packed(found)) == found


def test_flags_of_people_stand_beside_those_of_everybody(project, judged):
    """Ten judgments of one person, all for the one shown first: 72 to 100 %."""
    who = make_user("carol", project=project)
    for _ in range(10):
        judged(SHORT, SHORT + "!", who)
    names = [
        (flag["sway"], flag["username"])
        for flag in of_pairs(sound_pairs(project))["flags"]
    ]
    assert names == [
        ("first", None),
        ("longer", None),
        ("first", "carol"),
        ("longer", "carol"),
    ]

"""What `make bench` says, from given figures and answers. Nothing is timed here."""

import json

import pytest
from django.db import connection

from annotation.judging import judge_and_take
from annotation.leasing import take_lease
from annotation.models import Judgment, PreferencePair, Slot
from tests.bench import judging, loop, million
from tests.bench.__main__ import PARTS, main
from tests.bench.clients import Turn
from tests.bench.figures import (
    COLUMNS,
    Budget,
    Figure,
    Setting,
    as_line,
    setting,
    table,
)
from tests.bench.options import parse
from tests.factories import make_project, make_user

HERE = Setting("2 cores of some kind, 24 GiB", "abc1234", "2026-11-21T09:00:00+00:00")
FAST = Figure("a/speed", 3.0, "pairs/s", "TRL", 1.2, Budget("ratio", "≥", 2.0), "n")
BIG = Figure("a/memory", 1500.0, "MiB", "TRL", 1000.0, Budget("ratio", "≤", 0.5))
SLOW = Figure("b/p95", 60.5, "ms", budget=Budget("value", "≤", 60))
PLAIN = Figure("b/p50", 12.0, "ms")
LEASE = {
    "key": "k",
    "comparison": {"first": {"text": "short"}, "second": {"text": "longer"}},
}


def test_a_figure_is_one_json_line_with_its_ratio_and_whether_it_met_its_budget():
    """3 / 1.2 = 2.5, at least 2."""
    assert json.loads(as_line(FAST, HERE)) == {
        "name": "a/speed",
        "value": 3.0,
        "unit": "pairs/s",
        "rival": "TRL",
        "rival_value": 1.2,
        "ratio": 2.5,
        "budget": "ratio ≥ 2",
        "met": True,
        "note": "n",
        "machine": "2 cores of some kind, 24 GiB",
        "commit": "abc1234",
        "date": "2026-11-21T09:00:00+00:00",
    }
    assert "\n" not in as_line(BIG, HERE)


@pytest.mark.parametrize(
    ("figure", "ratio", "met"),
    [
        (BIG, 1.5, False),
        (SLOW, None, False),
        (PLAIN, None, None),
        (Figure("c", 60.0, "ms", budget=Budget("value", "≤", 60)), None, True),
        (Figure("c", 1.0, "s", "r", None, Budget("ratio", "≥", 2)), None, None),
        (Figure("c", 1.0, "s", "r", 0.5, Budget("ratio", "≥", 2)), 2.0, True),
    ],
)
def test_budgets_bind_ratio_or_value_and_their_bound_still_meets_them(
    figure, ratio, met
):
    assert (figure.ratio, figure.met) == (ratio, met)


def test_the_table_has_a_row_a_figure_and_shouts_where_a_budget_is_missed():
    lines = table([FAST, BIG, SLOW, PLAIN]).splitlines()
    assert lines[0].split() == list(COLUMNS)
    cells = [line.split("  ") for line in lines]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert cells[2] == [
        "a/speed",
        "3",
        "pairs/s",
        "1.2 TRL",
        "2.50",
        "ratio ≥ 2",
        "yes",
    ]
    assert cells[3] == [
        "a/memory",
        "1500",
        "MiB",
        "1000 TRL",
        "1.50",
        "ratio ≤ 0.5",
        "NO",
    ]
    assert cells[4] == ["b/p95", "60.5", "ms", "-", "-", "value ≤ 60", "NO"]
    assert cells[5] == ["b/p50", "12", "ms", "-", "-", "-", "-"]
    ends = [line.index(word) for line, word in ((lines[0], "met"), (lines[2], "yes"))]
    assert ends[0] == ends[1]


def test_where_and_of_what_the_figures_are_is_told():
    told = setting()
    assert "cores" in told.machine and "GiB" in told.machine
    assert told.commit and told.date.endswith("+00:00")


def test_judgments_a_second_and_their_times_are_the_better_turns():
    """Twenty requests of 1 … 20 ms in half a second: 40 a second, half of them within
    10 ms and 95 % within 19 ms."""
    good = Turn(20, seconds=0.5, times=[n / 1000 for n in range(1, 21)])
    bad = Turn(20, seconds=4.0, times=[0.2] * 20)
    bare = Turn(20, seconds=0.25, times=[0.002] * 20)
    throughput, p50, p95 = judging.figures_of("j", [bad, good], [bare], 8, "")
    assert (throughput.value, throughput.rival_value) == (40.0, 80.0)
    assert (throughput.ratio, throughput.met) == (0.5, True)
    assert (p50.value, p50.rival_value) == (pytest.approx(10), pytest.approx(2))
    assert (p95.value, p95.met) == (pytest.approx(19), True)


def test_lost_invented_and_doubled_judgments_are_counted():
    """a twice, b unacknowledged, c not stored."""
    first, second = Turn(2, acknowledged=["a", "c"]), Turn(1, acknowledged=["a"])
    assert judging.differences({"a", "b"}, [first, second]) == 3
    assert judging.differences({"a", "c"}, [first]) == 0


def test_a_refused_request_is_counted_and_not_timed():
    turn = Turn(2)
    answers = {"/a": (201, {"id": 1}), "/b": (410, None)}
    assert turn.timed(lambda path, body: answers[path], "/a", {}) == {"id": 1}
    assert turn.timed(lambda path, body: answers[path], "/b", {}) is None
    assert (len(turn.times), turn.refused) == (1, [410])
    assert [turn.take(), turn.take(), turn.take()] == [1, 2, None]


def test_orchestration_is_what_is_neither_training_nor_loading():
    """Asked at 100, trained from 102 to 192, registered at 193, serving at 200: of 100
    seconds 90 are the trainer's and 7 loading, so 3 are ours."""
    figure = loop.orchestration(100, 102, 192, 193, 200, "")
    assert (figure.value, figure.met) == (pytest.approx(0.03), True)
    assert loop.orchestration(100, 105, 192, 193, 200, "").met is False


def test_an_annotator_of_the_bench_waits_and_prefers_the_longer_answer():
    """Nothing ready at first, then a pair whose second answer is longer, then refused."""
    asked, answers = (
        [],
        [
            (204, None),
            (201, LEASE),
            (201, {"judgment": {"id": "a-b"}, "next": LEASE}),
            (410, None),
        ],
    )
    crowd = loop.Crowd()

    def ask(path: str, body: dict) -> tuple[int, dict | None]:
        asked.append((path, body))
        if len(answers) == 1:
            crowd.end.set()
        return answers.pop(0)

    loop.annotator(crowd, pause=0.0)(ask, Turn(0))
    judged = ("/api/v1/leases/k/judgment", {"verdict": "second"})
    assert asked[2:] == [judged, judged]
    assert (crowd.turn.acknowledged, crowd.turn.refused) == (["ab"], [410])
    assert len(crowd.waits) == 1


def test_the_first_start_is_left_out_where_it_should_be_quick(capsys):
    assert main(["start", "--quick"]) == 0
    told = capsys.readouterr()
    assert "start: left out" in told.err and not told.out


@pytest.mark.parametrize(
    ("wrong", "named"),
    [(["speed"], "speed"), (["--pairs", "0"], "--pairs"), (["--shapes", "big"], "big")],
)
def test_what_cannot_be_measured_is_refused_by_name(wrong, named, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(wrong, list(PARTS), tmp_path)
    assert named in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.both_databases
@pytest.mark.django_db
def test_a_large_project_fits_the_tables_of_today():
    """Of ten comparisons one is a tie, and the ten after the judged ones are open."""
    project = make_project(settings={"quota": million.QUOTA, "stock": 0})
    people = [make_user(f"person{n}", project=project) for n in range(million.PEOPLE)]
    with connection.cursor() as cursor:
        million.fill(
            cursor,
            30,
            project=project.pk,
            policy=project.base_id,
            first_person=people[0].pk,
            decided=20,
        )
    assert Judgment.objects.count() == 20 * million.QUOTA
    assert Slot.objects.filter(state="open").count() == 10 * million.QUOTA
    assert PreferencePair.objects.filter(state="accepted").count() == 18
    assert Judgment.objects.filter(verdict="tie").count() == 2 * million.QUOTA
    # The rows hold together: what waits can be judged.
    lease = take_lease(project, people[3])
    assert lease.comparison_id == 21
    _submitted, following = judge_and_take(lease, people[3], verdict="first")
    assert following.comparison_id == 22

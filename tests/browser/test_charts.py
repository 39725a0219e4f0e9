"""Charts in a real browser: drawn from the table's numbers, shown by the pointer, and a
table where there is no script."""

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from annotation.models import Judgment
from tests.browser.conftest import NARROW, WIDE, wait_until
from tests.browser.test_every_page import unfold, violations
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)
from training.models import RoundPair, TrainingRound

CHART = "Chart.getChart(document.querySelector('figure[data-chart] canvas'))"


@pytest.fixture
def manager(transactional_db):
    """Judgments three days ago and today; agreement in two weeks, full in one, which has
    too few comparisons for an interval."""
    user = make_user("mara")
    project = make_project(slug="kitchen", members={user: "manager"})
    alice, bob = (make_user(name, project=project) for name in ("alice", "bob"))
    at = timezone.now() - timedelta(days=3)
    for number in range(4):
        # English alone wins over Chinese, asked in Chinese: everything stands out.
        prompt = make_prompt(f"怎样煮鸡蛋 {number}？", project=project)
        a = make_completion("**Six minutes**, " * 5, prompt=prompt)
        b = make_completion("六分钟", prompt=prompt)
        judgment = make_judgment(comparison=make_comparison(a=a, b=b), annotator=alice)
        Judgment.objects.filter(pk=judgment.pk).update(created_at=at)
        make_pair(project=project, annotator=alice)
    last_week = timezone.now() - timedelta(days=8)
    for verdicts, when in (
        *[(("first", "first"), last_week)] * 6,
        *[(("first", "second"), last_week)] * 6,
        (("second", "second"), None),
        (("first", "first"), None),
    ):
        comparison = make_comparison(project=project, quota=2)
        for who, verdict in zip((alice, bob), verdicts, strict=True):
            judgment = make_judgment(
                comparison=comparison, annotator=who, verdict=verdict
            )
            if when:
                Judgment.objects.filter(pk=judgment.pk).update(created_at=when)
    make_judgment(project=project, annotator=bob, verdict="both_bad")
    training_round = TrainingRound.objects.create(
        project=project,
        number=1,
        state="failed",
        start=project.base,
        reference="base",
        data="all",
    )
    for pair in project.pairs.all():
        RoundPair.objects.create(training_round=training_round, pair=pair)
    return user


def cells(page, column: int) -> list[str]:
    return page.locator(
        f"figure[data-chart] tbody tr td:nth-child({column})"
    ).all_text_contents()


def drawn(page, series: str) -> list:
    # A function, not an expression: the page's CSP forbids eval.
    wait_until(page, f"() => window.Chart && !!{CHART}")
    return page.evaluate(
        f"{CHART}.data.datasets.find((d) => d.label === {series!r}).data"
    )


def test_the_days_chart_has_the_tables_numbers(browse, manager):
    page = browse(manager, "/projects/kitchen/")
    judged = drawn(page, "Judgments")
    assert [str(value) for value in judged] == cells(page, 2)
    assert [str(v) for v in drawn(page, "New sound pairs")] == cells(page, 3)
    assert judged[-4] == 4 and judged[-1] == 9
    expect(page.locator("figure[data-chart] table")).to_be_hidden()
    page.get_by_text("The numbers as a table").click()
    expect(page.locator("figure[data-chart] table")).to_be_visible()


def test_the_agreement_chart_has_the_tables_numbers_and_their_intervals(
    browse, manager
):
    page = browse(manager, "/projects/kitchen/quality/")
    values = drawn(page, "Krippendorff’s alpha")
    told = cells(page, 3)
    assert [f"{value:.2f}" for value in values] == [cell.split()[0] for cell in told]
    low, high = page.evaluate(
        f"{CHART}.data.datasets.filter((d) => d.isBand).map((d) => d.data)"
    )
    assert [least is None for least in low] == [False, True]
    for value, least, most, cell in zip(values, low, high, told, strict=True):
        if least is None:
            assert most is None and "too few to say" in cell
            continue
        assert least <= value <= most
        assert f"{least:.2f} to {most:.2f}" in cell


def test_the_pointer_shows_a_days_figures_and_nothing_of_the_band(browse, manager):
    page = browse(manager, "/projects/kitchen/quality/")
    drawn(page, "Krippendorff’s alpha")
    page.locator("figure[data-chart] canvas").hover()
    wait_until(page, f"() => {CHART}.tooltip.opacity === 1")
    lines = page.evaluate(f"{CHART}.tooltip.body.flatMap((part) => part.lines)")
    assert len(lines) == 1 and lines[0].startswith("Krippendorff’s alpha: ")


def test_another_colour_scheme_draws_the_chart_in_its_colours(browse, manager):
    page = browse(manager, "/projects/kitchen/")
    drawn(page, "Judgments")
    colors = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        wait_until(
            page,
            f"() => {CHART}.options.scales.y.ticks.color === "
            "getComputedStyle(document.documentElement).getPropertyValue('--soft').trim()",
        )
        colors.append(page.evaluate(f"{CHART}.data.datasets[0].borderColor"))
    assert colors[0] != colors[1]


@pytest.mark.parametrize("path", ["", "quality/"])
def test_without_javascript_the_table_stands_for_the_chart(browse, manager, path):
    page = browse(manager, f"/projects/kitchen/{path}", javascript=False)
    expect(page.locator("figure[data-chart] table")).to_be_visible()
    expect(page.locator("figure[data-chart] canvas")).to_be_hidden()


def test_axe_finds_nothing_where_much_stands_out(browse, manager):
    """All folds open, flags and marked cells there, light and dark."""
    found = {}
    page = browse(manager, "/")
    for path in ("", "quality/", "rounds/"):
        page.goto(f"{browse.url}/projects/kitchen/{path}")
        unfold(page)
        for width, height in (WIDE, NARROW):
            page.set_viewport_size({"width": width, "height": height})
            at = f"{path} at {width}"
            found[at] = violations(page)
            wider = page.evaluate(
                "document.documentElement.scrollWidth"
                " - document.documentElement.clientWidth"
            )
            found[at] += [f"{wider} px too wide"] if wider > 0 else []
    assert page.locator(".notice.warn").count() > 0
    assert not any(found.values()), found

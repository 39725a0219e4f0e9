"""A round's page in a real browser: curves that grow, polling that ends, no script."""

import io

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import NARROW, WIDE, wait_until
from tests.browser.test_every_page import unfold, violations
from tests.factories import make_policy, make_project, make_user
from tests.training.conftest import make_pairs
from training import attempts, ingest
from training.models import TrainingRound
from training.rounds import start_round

POINTS = "Chart.getChart('chart-rewards').data.datasets[0].data.length"


@pytest.fixture
def manager(transactional_db):
    return make_user("mara")


@pytest.fixture
def running(manager, settings, tmp_path, monkeypatch):
    settings.ROUNDS_DIR = tmp_path / "rounds"
    monkeypatch.setattr(
        "training.tasks.train_round.apply_async", lambda *args, **options: None
    )
    project = make_project(members={manager: "manager"})
    make_pairs(project, 3)
    training_round = attempts.claim(start_round(project, manager).pk)
    train(training_round, 1, 12)
    return training_round


def train(training_round, first, last):
    ingest.store_metrics(
        training_round,
        [
            {
                "step": step,
                "loss": 0.69 - step / 100,
                "rewards/chosen": -step / 10,
                "rewards/rejected": -step / 4,
                "rewards/margins": step * 0.15,
                "rewards/accuracies": 0.75,
            }
            for step in range(first, last + 1)
        ],
    )
    TrainingRound.objects.filter(pk=training_round.pk).update(
        state="training",
        step=last,
        total_steps=40,
        activity={"phase": "training", "done": last, "of": 40},
    )


def test_the_axis_of_a_single_step_reads_1(browse, manager, running):
    running.metrics.filter(step__gt=1).delete()
    page = browse(manager, f"/rounds/{running.pk}/")
    wait_until(page, f"{POINTS} === 1")
    labels = "Chart.getChart('chart-rewards').scales.x.ticks.map((t) => t.label)"
    assert [label for label in page.evaluate(labels) if label] == ["1"]


def test_until_a_step_is_done_the_bar_is_striped_and_says_what_is_done(
    browse, manager, running
):
    """It was an empty bar beside “Preparing”, as if nothing moved."""
    rows = TrainingRound.objects
    rows.update(state="queued", step=0, total_steps=0, activity={}, eta_seconds=None)
    page = browse(manager, f"/rounds/{running.pk}/")
    bar = page.get_by_role("progressbar")
    expect(page.get_by_text("Waiting for a worker.")).to_be_visible()
    expect(bar).to_have_count(0)
    rows.update(state="preparing")
    expect(page.get_by_text("Checking the frozen pairs")).to_be_visible()
    assert colours(bar) > 1
    rows.update(state="training", total_steps=40)
    expect(page.get_by_text("Starting the trainer")).to_be_visible()
    rows.update(activity={"phase": "reference", "done": 2, "of": 3})
    expect(page.get_by_text("Measuring the reference: 2 / 3")).to_be_visible()
    assert colours(bar) > 1
    page.emulate_media(reduced_motion="no-preference")
    moves = "(bar) => bar.getAnimations().length"
    assert bar.evaluate(moves) == 1
    page.emulate_media(reduced_motion="reduce")
    assert bar.evaluate(moves) == 0 and colours(bar) > 1
    rows.update(step=4, activity={"phase": "training"})
    expect(bar).to_have_attribute("value", "4")


def colours(locator) -> int:
    """How many there are along its middle, the rounded ends left out."""
    image = Image.open(io.BytesIO(locator.screenshot())).convert("RGB")
    middle = image.height // 2
    line = image.crop((20, middle, image.width - 20, middle + 1))
    return len({color for count, color in line.getcolors() if count > 20})


def test_the_two_small_charts_begin_at_one_height(browse, manager, running):
    page = browse(manager, f"/rounds/{running.pk}/")
    tops = "[...document.querySelectorAll('.grid .canvas')].map((c) => c.offsetTop)"
    wait_until(page, f"{POINTS} === 12")
    accuracy, loss = page.evaluate(tops)
    assert accuracy == loss


def test_nothing_moves_when_the_button_to_cancel_goes(browse, manager, running):
    page = browse(manager, f"/rounds/{running.pk}/")
    height = "document.querySelector('.page-head').offsetHeight"
    expect(page.get_by_text("Cancel the round …")).to_be_visible()
    with_button = page.evaluate(height)
    TrainingRound.objects.update(cancel_requested=True)
    expect(page.get_by_text("Stopping …")).to_be_visible()
    assert page.evaluate(height) == with_button


LABELS_THAT_TOUCH = """() => Object.values(charts).flatMap((chart) => {
  const x = chart.scales.x;
  chart.ctx.font = x._resolveTickFontOptions(0).string;
  const labels = x.ticks.filter((tick) => tick.label).map((tick) => {
    const half = chart.ctx.measureText(tick.label).width / 2;
    const at = x.getPixelForValue(tick.value);
    return { ...tick, from: at - half, to: at + half };
  });
  return labels.slice(1).map((label, place) => [labels[place], label])
    .filter(([one, next]) => next.from - one.to < 4)
    .map(([one, next]) => `${one.label} ${next.label}`);
})"""


@pytest.mark.parametrize("last", [17, 22, 52, 102])
def test_the_last_step_is_named_apart_from_the_tick_before_it(
    browse, manager, running, last
):
    train(running, 13, last)
    page = browse(manager, f"/rounds/{running.pk}/", size=NARROW)
    wait_until(page, f"{POINTS} === {last}")
    assert page.evaluate(LABELS_THAT_TOUCH) == []
    labels = "Chart.getChart('chart-rewards').scales.x.ticks.map((t) => t.label)"
    assert str(last) in page.evaluate(labels)


def test_curves_grow_without_a_reload_until_the_round_is_over(browse, manager, running):
    page = browse(manager, f"/rounds/{running.pk}/")
    expect(page.get_by_text("Training: step 12 of 40")).to_be_visible()
    wait_until(page, f"{POINTS} === 12")
    page.get_by_text("The charts’ numbers as a table").click()
    page.evaluate("window.isTheSamePage = true")

    train(running, 13, 20)
    expect(page.get_by_text("Training: step 20 of 40")).to_be_visible()
    wait_until(page, f"{POINTS} === 20")
    # What somebody has opened stays open, on the same page.
    expect(page.get_by_role("columnheader", name="rewards/margins")).to_be_visible()
    assert page.evaluate("window.isTheSamePage")

    TrainingRound.objects.filter(pk=running.pk).update(state="training")
    with page.expect_response(lambda r: r.status == 286):
        attempts.failed(running, "The trainer failed: the disk is full.")
    expect(page.get_by_text("the disk is full").first).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert page.locator("[hx-trigger]").count() == 0
    assert page.evaluate("window.isTheSamePage")


def test_the_focus_stays_where_it_was_while_the_page_renews_itself(
    browse, manager, running
):
    page = browse(manager, f"/rounds/{running.pk}/")
    cancel = page.locator("#confirm-cancel > summary")
    cancel.focus()
    train(running, 13, 16)
    expect(page.get_by_text("Training: step 16 of 40")).to_be_visible()
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    train(running, 17, 20)
    expect(page.get_by_text("Training: step 20 of 40")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel it")).to_be_focused()
    download = page.get_by_role("link", name="OpenAI")
    download.focus()
    train(running, 21, 24)
    expect(page.get_by_text("Training: step 24 of 40")).to_be_visible()
    expect(download).to_be_focused()


def test_a_point_under_the_pointer_says_its_figures(browse, manager, running):
    page = browse(manager, f"/rounds/{running.pk}/")
    wait_until(page, f"{POINTS} === 12")
    page.locator("#chart-rewards").hover()
    wait_until(page, "Chart.getChart('chart-rewards').tooltip.opacity === 1")
    lines = page.evaluate(
        "Chart.getChart('chart-rewards').tooltip.body.flatMap((part) => part.lines)"
    )
    assert [line.split(":")[0] for line in lines] == ["chosen", "rejected", "margin"]


def test_without_javascript_the_page_says_all_and_cancels(browse, manager, running):
    page = browse(manager, f"/rounds/{running.pk}/", javascript=False)
    expect(page.get_by_text("Training: step 12 of 40")).to_be_visible()
    expect(page.get_by_text("Reload the page to see it move.")).to_be_visible()
    # Curves that nobody draws leave no empty boxes; their numbers are there.
    expect(page.get_by_role("heading", name="Accuracy")).to_be_hidden()
    page.get_by_text("The charts’ numbers as a table").click()
    expect(page.get_by_role("columnheader", name="rewards/margins")).to_be_visible()
    page.get_by_text("Cancel the round").click()
    page.get_by_role("button", name="Cancel it").click()
    expect(page.get_by_text("Stopping …")).to_be_visible()
    running.refresh_from_db()
    assert running.cancel_requested


def test_the_progress_is_seen_in_colors_of_the_reader_s_own(browse, manager, running):
    page = browse(manager, f"/rounds/{running.pk}/")
    page.emulate_media(forced_colors="active")
    bar = page.locator("#live-round progress")
    shot = Image.open(io.BytesIO(bar.screenshot())).convert("RGB")
    middle = [shot.getpixel((x, shot.height // 2)) for x in range(4, shot.width - 4)]
    # 12 of 40 steps are done.
    assert middle[0] != middle[-1]


def test_axe_finds_nothing_and_nothing_scrolls_sideways(browse, manager, running):
    project = running.project
    serving = make_policy(project=project, number=1)
    make_policy(project=project, number=2, rejected_reason="Its canary is off.")
    project.channel.serving = serving
    project.channel.save()
    over = make_project(slug="over", members={manager: "manager"})
    make_pairs(over, 2)
    training_round = start_round(over, manager)
    attempts.failed(training_round, "The trainer failed: " + "a/long/path/" * 20)
    page = browse(manager, "/")
    found = {}
    for path in (
        f"/rounds/{running.pk}/",
        f"/rounds/{training_round.pk}/",
        "/projects/over/rounds/",
        f"/projects/{project.slug}/rounds/",
        f"/projects/{project.slug}/policies/",
    ):
        page.goto(browse.url + path)
        unfold(page)
        found[path] = violations(page)
        for width, height in (WIDE, NARROW, (320, 600)):
            page.set_viewport_size({"width": width, "height": height})
            wider = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            found[f"{path} at {width}"] = [wider] if wider > 0 else []
    assert not any(found.values()), found

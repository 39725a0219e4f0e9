"""What tests of the compare page share: what is on it, and what it stored."""

from playwright.sync_api import Page, expect

from annotation.models import Judgment

ASKS_ALL = {
    "ask_strength": True,
    "ask_reasons": ["correct", "clear"],
    "criteria": ["helpful", "harmless"],
}
"""Settings of a project that asks everything beside the verdict."""

# Names of what is kept on the device of picks and drafts, without user and project.
KEPT = """() => Object.keys(localStorage)
  .map((name) => name.replace(/^tiebreak:\\d+:(?:[\\w-]+:(?=pick:|draft:))?/, ""))
  .filter((name) => /^(pick|draft):/.test(name))"""


def question(page: Page):
    return page.locator(".question")


def editor(page: Page):
    return page.locator(".edit[open] textarea")


def shown(page: Page, letter: str) -> str:
    return page.locator(f".answer-{letter} .answer-text").inner_text()


def wait_for_next(page: Page, number: int) -> None:
    """Until it is shown, and its keys work: a page shows before its scripts have run."""
    expect(question(page)).to_contain_text(f"Question number {number}?")
    page.wait_for_load_state("domcontentloaded")


def press(page: Page, **event: object) -> None:
    """A key of another layout than the browser's: Playwright only knows the American."""
    page.evaluate(
        """(event) => document.activeElement.dispatchEvent(
             new KeyboardEvent("keydown", { ...event, bubbles: true, cancelable: true }))""",
        event,
    )


def verdicts() -> list[str]:
    rows = Judgment.objects.filter(undone_at=None).order_by("created_at")
    return list(rows.values_list("verdict", flat=True))

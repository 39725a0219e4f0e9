"""Every page of annotation: axe finds nothing, light and dark; nothing scrolls sideways."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from annotation import import_jobs
from annotation.models import ImportJob, Judgment, Role
from annotation.rendering import render_markdown
from tests.acts import decide
from tests.browser.conftest import NARROW, WIDE
from tests.factories import (
    judge_gold,
    make_comparison,
    make_completion,
    make_flag,
    make_gold,
    make_judgment,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)

TEXT = """Heat the **pan**, then:

1. butter
2. egg

```python
a_line_of_code_that_is_much_wider_than_a_phone = "and has no space to break at" * 3
```

| when | how long |
|---|---|
| soft | six minutes |

> 水开后煮六分钟 https://example.org/a-very-long-address-without-any-space-in-it-at-all-for-the-phone
"""
PASTED = "a_name_without_any_space_as_an_experiment_tracker_makes_them_20261122"
PATHS = {
    "home": "/",
    "new_project": "/projects/new/",
    "not_found": "/nothing/here/",
    **{
        name: f"/projects/kitchen/{name}/"
        for name in (
            *("compare", "history", "prompts", "members", "settings", "pairs"),
            *("quality", "review", "flagged", "gold", "rules", "export", "import"),
        )
    },
    "preferences": "/preferences/",
    "overview": "/projects/kitchen/",
    # Made below: rejected by one rule, let through against another.
    "pair": "/projects/kitchen/pairs/1001/",
    "pair being checked again": "/projects/kitchen/pairs/1002/",
    "waiting": "/projects/empty/compare/",
    "nothing to review": "/projects/empty/review/",
}


@pytest.fixture
def manager(transactional_db):
    """A manager whose project has something on every page."""
    user = make_user("manager", is_staff=True, is_superuser=True)
    project = make_project(
        slug="kitchen",
        name=f"厨房帮手 with a name that is long for a telephone {PASTED}"[:120],
        guidelines=TEXT,
        settings={
            "ask_strength": True,
            "ask_reasons": ["correct", "clear"],
            "criteria": ["helpful", "a criterion with a rather long name"],
            "gold_rate": 1e-9,
            "gold_least": 1,
        },
        members={user: Role.MANAGER, make_user("rita"): Role.REVIEWER},
    )
    make_project(slug="empty", members={user: Role.MANAGER})
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "I want to fry an egg."},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "And how long?"},
    ]
    prompt = make_prompt(project=project, messages=messages)
    answers = [
        make_completion(TEXT, prompt=prompt, html=render_markdown(TEXT)) for _ in "ab"
    ]
    make_comparison(a=answers[0], b=answers[1])
    seen = [make_completion(TEXT, prompt=prompt) for _ in "ab"]
    make_pair(comparison=make_comparison(a=seen[0], b=seen[1]))
    make_judgment(project=project, annotator=user, verdict="tie", comment="both fine")
    make_judgment(project=project, annotator=user, undone_at="2026-01-01T00:00Z")
    make_flag(
        project,
        user,
        reason="https://example.org/words-without-any-space-for-the-phone" * 3,
        ended_at="2026-01-01T00:00Z",
    )
    rejected = make_pair(pk=1001, project=project, annotator=user, state="rejected")
    rejected.verdicts.create(rule="cut_off", result="reject", reason="at 256 tokens")
    rejected.verdicts.create(
        rule="chosen_width",
        result="reject",
        reason="too short",
        params={"min_columns": 50},
        is_let_through=True,
    )
    rejected.verdicts.create(
        rule="identity",
        result="could_not_check",
        reason="the rule failed: ZeroDivisionError: so it goes",
        params={"words": ["Nova"]},
    )
    rejected.let_throughs.create(by=user, note=TEXT[:300], rules=["chosen_width"])
    due = make_pair(pk=1002, project=project, is_due=True)
    due.verdicts.create(rule="cut_off", result="reject", reason="at 256 tokens")
    for expected in ("winner", "tie"):
        make_gold(project=project, author=user, expected=expected, explanation="sums")
    judge_gold(user, make_gold(project=project, author=user), is_right=False)
    waiting = make_judgment(project=project, annotator=user, waits_for_review=True)
    Judgment.objects.filter(pk=waiting.pk).update(created_at="2026-01-01T00:00Z")
    shared = make_comparison(project=project, quota=2)
    for who in (user, make_user(f"{PASTED}@example.org", project=project)):
        make_judgment(comparison=shared, annotator=who)
    prompt = make_prompt(project=project, messages=[*messages[:3], messages[1]])
    answers = [
        make_completion(TEXT, prompt=prompt, html=render_markdown(TEXT)) for _ in "ab"
    ]
    split = make_comparison(a=answers[0], b=answers[1], quota=3)
    edited = make_completion(
        TEXT, prompt=prompt, source="edited", edited_from=split.a, html="<p>Better.</p>"
    )
    said = {"strength": 3, "reasons": ["correct"], "comment": TEXT, "edited": edited}
    make_judgment(comparison=split, verdict="first", **said)
    for verdict in ("second", "both_bad"):
        make_judgment(comparison=split, verdict=verdict)
    decide(split)
    return user


def violations(page: Page) -> list[str]:
    """What axe finds, light and dark."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [
            f"{scheme} {rule['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for rule in Axe().run(page).response["violations"]
            for node in rule["nodes"]
        ]
    return found


def unfold(page: Page) -> None:
    page.evaluate(
        "for (const d of document.querySelectorAll('main details')) d.open = true"
    )


def test_axe_finds_nothing_on_any_page(browse, manager):
    browse.expected.append("404")
    page = browse(manager, "/")
    found = {}
    for name, path in PATHS.items():
        page.goto(browse.url + path)
        unfold(page)
        if problems := violations(page):
            found[name] = problems
    assert not found


def wrong_password(page):
    page.get_by_label("Password").fill("wrong")
    with page.expect_navigation():
        page.get_by_role("button", name="Sign in").click()


def test_axe_finds_nothing_where_things_went_wrong_or_are_open(browse, manager):
    browse.expected += ["404", "403", "422", "429"]
    page = browse(None, "/login/")
    page.get_by_label("Username").fill("nobody")
    wrong_password(page)
    found = {"login": violations(page)}
    for _ in range(9):
        wrong_password(page)
    expect(page.get_by_role("heading", name="Too many wrong")).to_be_visible()
    found["locked out"] = violations(page)
    page = browse(manager, "/projects/kitchen/settings/")
    page.get_by_label("Temperature").fill("-1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert").first).to_contain_text("Temperature")
    found["settings"] = violations(page)
    page.goto(browse.url + "/projects/kitchen/rules/")
    page.locator("[name='rules.chosen_width.min_columns']").fill("-1")
    expect(page.locator("#preview").get_by_role("alert")).to_be_visible()
    found["rules refused"] = violations(page)
    page.locator("[name='rules.chosen_width.min_columns']").fill("500")
    expect(page.locator("#preview")).to_contain_text("would be lost")
    found["rules preview"] = violations(page)
    page.goto(browse.url + "/projects/kitchen/import/")
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_role("alert")).to_contain_text("Choose a file")
    found["nothing chosen"] = violations(page)
    page.get_by_label("Or paste it here").fill('{"prompt": "ok?"}\n{oops')
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_text("bad line", exact=True)).to_be_visible()
    unfold(page)
    found["preview"] = violations(page)
    page.get_by_role("button", name="Import the prompts").click()
    expect(page.get_by_text("Waiting for a worker.")).to_be_visible()
    found["queued import"] = violations(page)
    import_jobs.run(ImportJob.objects.get().pk)
    expect(page.get_by_role("heading", name="Bad lines")).to_be_visible()
    found["import"] = violations(page)
    page.goto(browse.url + "/projects/kitchen/import/")
    row = '{"prompt": "How?", "completion": "So.", "label": true}'
    page.get_by_label("Or paste it here").fill(row)
    page.get_by_role("button", name="Look at it").click()
    expect(page.get_by_text("A good answer, alone")).to_be_visible()
    page.get_by_role("button", name="Import the pairs").click()
    expect(page.get_by_text("Waiting for a worker.")).to_be_visible()
    import_jobs.run(ImportJob.objects.latest("pk").pk)
    expect(page.get_by_text("answers without a pair")).to_be_visible()
    found["import of a labelled answer"] = violations(page)
    page.goto(browse.url + "/projects/kitchen/export/?agreement=7")
    found["export"] = violations(page)
    page.goto(browse.url + "/projects/kitchen/compare/")
    page.keyboard.press("?")
    found["help"] = violations(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Guidelines").click()
    found["guidelines"] = violations(page)
    page = browse(make_user("stranger"), "/")
    found["stranger"] = violations(page)
    assert not any(found.values()), found


def test_no_page_scrolls_sideways_wide_or_on_a_phone_or_at_four_times_the_size(
    browse, manager
):
    browse.expected.append("404")
    page = browse(manager, "/")
    too_wide = {}
    for name, path in PATHS.items():
        page.goto(browse.url + path)
        unfold(page)
        for width, height in (WIDE, NARROW, (720, 450), (320, 640)):
            page.set_viewport_size({"width": width, "height": height})
            over = page.evaluate(
                "document.documentElement.scrollWidth"
                " - document.documentElement.clientWidth"
            )
            if over > 0:
                too_wide[f"{name} at {width}"] = over
    assert not too_wide


def test_every_page_is_usable_in_chinese(browse, manager):
    page = browse(manager, "/")
    page.get_by_role("button", name="中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
    expect(page.get_by_role("button", name="中文")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_an_old_page_still_works_after_signing_in_again_elsewhere(browse, manager):
    """Signing in changes the CSRF token; the page takes the new one from its cookie."""
    manager.set_password("secret words")
    manager.save()
    page = browse(None, "/login/?next=/projects/kitchen/compare/")
    for _again in range(2):
        page.get_by_label("Username").fill("manager")
        page.get_by_label("Password").fill("secret words")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#pair")).to_be_visible()
        old = page
        page = old.context.new_page()
        page.goto(browse.url + "/login/?next=/projects/kitchen/compare/")
    old.keyboard.press("s")
    expect(old.locator(".done")).to_contain_text("Skipped")

"""The page that shows the schema, in a real browser under the strict CSP."""

import pytest


@pytest.fixture
def page(chromium):
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.django_db(transaction=True)
def test_the_page_shows_every_call_and_breaks_no_rule_of_the_csp(live_server, page):
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{live_server.url}/api/docs")
    page.get_by_text("/api/v1/projects/{slug}/leases").first.wait_for()
    assert page.locator(".opblock").count() == 41
    page.locator("#operations-projects-leases_take button").first.click()
    page.get_by_text("Nothing waits for you; see Retry-After.").wait_for()
    assert not complaints


def test_the_page_allows_no_inline_code(client):
    response = client.get("/api/docs")
    policy = response["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "img-src 'self' data:" in policy
    assert b"style=" not in response.content
    # Nor is the exception wider than this page.
    assert "data:" not in client.get("/login/")["Content-Security-Policy"]

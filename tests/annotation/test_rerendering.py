"""Answers rendered by an older renderer: never shown, made anew some at a time."""

from io import StringIO

import pytest
from django.core.management import call_command
from django.urls import reverse

from annotation.models import Completion
from annotation.rendering import RENDERER_VERSION
from annotation.rerendering import outdated, rerender_some
from tests.factories import (
    make_comparison,
    make_completion,
    make_judgment,
    make_pair,
    make_prompt,
)

pytestmark = pytest.mark.both_databases


def old(text, **fields):
    return make_completion(
        text, html="<p>by the old one</p>", html_version=RENDERER_VERSION - 1, **fields
    )


def test_a_new_answer_carries_the_version_that_rendered_it(db):
    assert make_completion("x").html_version == RENDERER_VERSION


def test_no_page_shows_what_an_older_renderer_made(client, annotator, project):
    prompt = make_prompt(project=project)
    a, b = old("**new** a", prompt=prompt), old("**new** b", prompt=prompt)
    make_judgment(comparison=make_comparison(a=a, b=b, quota=2), annotator=annotator)
    make_pair(comparison=make_comparison(a=a, b=b), annotator=annotator)
    make_comparison(a=a, b=b)
    client.force_login(annotator)
    for name in ("compare", "history"):
        html = client.get(reverse(name, args=[project.slug])).content.decode()
        assert "by the old one" not in html, name
        assert "<strong>new</strong> a" in html, name


def test_some_are_made_anew_and_the_rest_next_time(db):
    prompt = make_prompt()
    for number in range(5):
        old(f"**{number}**", prompt=prompt)
    kept = make_completion("x", prompt=prompt, html="<p>as it is</p>")
    assert rerender_some(3) == 3
    assert outdated().count() == 2
    assert rerender_some(3) == 2
    assert rerender_some(3) == 0
    texts = set(Completion.objects.exclude(pk=kept.pk).values_list("html", flat=True))
    assert texts == {f"<p><strong>{number}</strong></p>\n" for number in range(5)}
    kept.refresh_from_db()
    assert kept.html == "<p>as it is</p>"


def test_what_a_newer_process_rendered_meanwhile_stays(db, monkeypatch):
    answer = old("x")

    def rendered_elsewhere(text):
        Completion.objects.update(html="newer", html_version=RENDERER_VERSION)
        return "older"

    monkeypatch.setattr("annotation.rerendering.render_markdown", rendered_elsewhere)
    rerender_some()
    answer.refresh_from_db()
    assert answer.html == "newer"


def test_the_search_for_them_uses_its_index(db, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert outdated().order_by("html_version").explain()
    plan = outdated().order_by("html_version").explain().lower()
    assert "completion_by_renderer" in plan or "seq scan" in plan


def test_the_command_says_how_far_it_is(db):
    prompt = make_prompt()
    for number in range(5):
        old(str(number), prompt=prompt)
    out = StringIO()
    call_command("rerender", batch=2, stdout=out)
    assert out.getvalue().splitlines() == [
        "2 of 5 answers rendered",
        "4 of 5 answers rendered",
        "5 of 5 answers rendered",
    ]
    call_command("rerender", stdout=out)
    assert "up to date" in out.getvalue()

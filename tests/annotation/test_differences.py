"""The words in which two answers differ, marked in both as they are rendered."""

import re

import pytest
from django.urls import reverse
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.differences import marked
from annotation.rendering import RENDERER_VERSION, render_markdown
from tests.factories import (
    make_comparison,
    make_completion,
    make_lease,
    make_prompt,
    make_user,
)


def marks(html):
    return re.findall(r"<mark[^>]*>(.*?)</mark>", html, re.S)


def of(first, second):
    return marked(render_markdown(first), render_markdown(second))


def test_the_words_that_stand_in_one_answer_only_are_marked_in_it():
    found = of("Boil **six** minutes.", "Boil seven *minutes*, covered.")
    assert found.first == "<p>Boil <strong><mark>six</mark></strong> minutes.</p>\n"
    assert found.second == (
        "<p>Boil <mark>seven</mark> <em>minutes</em><mark>, covered</mark>.</p>\n"
    )
    assert found.places == 2


def test_a_formula_differs_as_a_whole_and_by_its_form():
    found = of("so $x^2$ and $y$", "so $x_2$ and $y$")
    assert [mark.startswith("<math>") for mark in marks(found.first)] == [True]
    assert len(marks(found.second)) == 1


def test_chinese_differs_by_character_and_code_by_word():
    found = of(
        "煮六分钟\n\n```py\ndef f(): 1\n```", "煮七分钟\n\n```py\ndef g(): 1\n```"
    )
    assert marks(found.first) == ["六", "f"]
    assert marks(found.second) == ["七", "g"]


def test_other_markup_of_the_same_words_is_no_difference():
    found = of("# One two\n\nthree", "One two\n\n- three")
    assert found.places == 0
    assert not marks(found.first) and not marks(found.second)


def test_signs_of_html_stay_signs():
    found = of("1 < 2 & <b>x</b>", "1 < 3 & <b>y</b>")
    assert "<b>" not in found.first
    assert found.first.startswith("<p>1 &lt; <mark>2</mark> &amp; ")


TEXTS = st.lists(
    st.sampled_from(
        [
            *(
                "one ",
                "two ",
                "**",
                "*",
                "\n\n",
                "- ",
                "`",
                "$x$ ",
                "$x^2$ ",
                "# ",
                "> ",
            ),
            *(
                "水",
                "煮。",
                "مرحبا ",
                "|a|\n|-|\n|",
                "```py\n",
                "\n```\n",
                "<b>",
                "&amp;",
            ),
            *("  ", "[a](https://b.example) ", "&", '"', "'"),
        ]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_without_its_marks_it_is_what_was_rendered(one, other):
    """Byte for byte: marking may lose, double or move nothing."""
    first, second = render_markdown(one), render_markdown(other)
    found = marked(first, second)
    for html, before in ((found.first, first), (found.second, second)):
        assert re.sub(r"</?mark[^>]*>", "", html) == before
        assert not re.search(r"<[^>]*<mark", html)
    assert marked(first, first).first == first


@given(st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_texts_of_full_length_are_marked_too(kind):
    words = [f"w{number}" for number in range(12_000)]
    other = [*words]
    other[kind * 2000] = "other"
    found = marked(f"<p>{' '.join(words)}</p>", f"<p>{' '.join(other)}</p>")
    assert marks(found.second) == ["other"]
    assert marked("<p>" + "a b " * 25_000, "<p>" + "b c " * 25_000).places >= 1


# --- The view ---------------------------------------------------------------------------
@pytest.fixture
def lease(project, annotator):
    prompt = make_prompt(project=project)
    a = make_completion("x", prompt=prompt, html="<p>Boil six minutes</p>")
    b = make_completion("y", prompt=prompt, html="<p>Boil seven minutes</p>")
    return make_lease(
        comparison=make_comparison(a=a, b=b), annotator=annotator, first=b, second=a
    )


def url(lease):
    return reverse("differences", args=[lease.key])


def test_they_come_in_the_order_in_which_the_answers_are_shown(
    client, annotator, lease
):
    client.force_login(annotator)
    html = client.get(url(lease), headers={"HX-Request": "true"}).content.decode()
    assert marks(html) == ["seven", "six"]
    assert 'data-for=".answer-a"' in html and "<html" not in html
    whole = client.get(url(lease)).content.decode()
    assert marks(whole) == ["seven", "six"] and "</html>" in whole


def test_they_are_nobody_elses(client, project, other_annotator, lease):
    for user in (other_annotator, make_user("stranger")):
        client.force_login(user)
        assert client.get(url(lease)).status_code == 404


def test_they_tell_no_more_than_the_texts(client, annotator, lease):
    client.force_login(annotator)
    html = client.get(url(lease), headers={"HX-Request": "true"}).content.decode()
    told = re.findall(r'data-[a-z]+="([^"]*)"', html)
    assert told == [".answer-a", "1", "The answers differ in 1 place.", ".answer-b"]


def test_what_an_older_renderer_made_is_compared_as_it_is_shown(
    client, annotator, lease
):
    lease.first.html_version = RENDERER_VERSION - 1
    lease.first.save()
    client.force_login(annotator)
    html = client.get(url(lease), headers={"HX-Request": "true"}).content.decode()
    assert marks(html) == ["y", "Boil six minutes"]


def test_the_page_itself_computes_none_of_it(client, annotator, lease, monkeypatch):
    monkeypatch.setattr("annotation.differences.word_diff", None)
    client.force_login(annotator)
    html = client.get(reverse("compare", args=[lease.project.slug])).content.decode()
    assert "<mark" not in html and url(lease) in html


def test_a_fixed_number_of_queries(client, annotator, lease, django_assert_num_queries):
    client.force_login(annotator)
    with django_assert_num_queries(5):  # session, user, lease with membership, answers
        client.get(url(lease), headers={"HX-Request": "true"})

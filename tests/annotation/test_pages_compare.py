"""The compare page without a browser: what it shows, and what it must not tell."""

import re

import pytest
from django.urls import reverse

from annotation.models import Lease
from tests.annotation.pages import HTMX, compare_url, html, without_chance
from tests.factories import (
    make_comparison,
    make_completion,
    make_lease,
    make_policy,
    make_project,
    make_prompt,
    make_user,
)


def test_the_waiting_pair_is_shown_with_its_four_verdicts(signed_in, project):
    comparison = make_comparison(project=project)
    text = html(signed_in.get(compare_url(project)))
    assert comparison.prompt.messages[0]["content"] in text
    assert comparison.a.text in text and comparison.b.text in text
    assert re.findall(r'name="verdict" value="(\w+)"', text) == [
        "first",
        "tie",
        "both_bad",
        "second",
    ]


def test_nothing_tells_which_policy_answered_or_which_row_it_is(signed_in, project):
    policy = make_policy(project=project, number=4711)
    prompt = make_prompt(project=project, pk=880_001)
    a = make_completion(prompt=prompt, policy=policy, pk=880_002)
    b = make_completion(prompt=prompt, policy=policy, pk=880_003)
    make_comparison(a=a, b=b, pk=880_004)
    text = html(signed_in.get(compare_url(project)))
    assert a.text in text
    assert policy.name not in text and "4711" not in text
    assert "88000" not in text
    assert "stop" not in re.findall(r'data-\w+="([^"]*)"', text)


def answered(project, text="The answer.", **differences):
    """A comparison whose answers differ from others in `differences` alone."""
    prompt = make_prompt(project=project, messages=[{"role": "user", "content": "Q?"}])
    a, b = (
        make_completion(text, prompt=prompt, html=f"<p>{text}</p>", **differences)
        for _side in "ab"
    )
    return make_comparison(a=a, b=b)


@pytest.mark.parametrize(
    "differences",
    [
        {"finish_reason": "length", "seed": 77},
        {"token_ids": list(range(300)), "logprobs": [-3.5] * 300},
        {"sampling": {"temperature": 0.2, "max_tokens": 4096, "latency": 9.5}},
        {"source": "imported", "finish_reason": ""},
        {"pk_from": 990_000},
        {"another_policy": True},
        {"purpose": "gold"},
        {"purpose": "repeat"},
        {"purpose": "head_to_head"},
        {"text": "A much, much longer answer. " * 40},
    ],
    ids=lambda differences: next(iter(differences)),
)
def test_two_pairs_that_differ_in_what_must_not_be_told_give_the_same_page(
    db, client, differences
):
    """Byte by byte, but for the random ids and the answers' own text."""
    differences = dict(differences)
    purpose = differences.pop("purpose", "train")
    text = differences.pop("text", "The answer.")
    pages = []
    for number, changed in enumerate((False, True)):
        project = make_project(slug=f"same{number}")
        user = make_user(f"user{number}", project=project)
        client.force_login(user)
        kept = {}
        if changed:
            kept = {
                k: v
                for k, v in differences.items()
                if k not in ("pk_from", "another_policy")
            }
            if "another_policy" in differences:
                kept["policy"] = make_policy(channel=project.channel, number=4711)
            if "pk_from" in differences:
                make_prompt(project=project, pk=990_001)
                make_completion(pk=990_002)
        own_text = text if changed else "The answer."
        comparison = answered(project, own_text, **kept)
        if changed:
            comparison.purpose = purpose
            comparison.save()
        if comparison.purpose in ("gold", "repeat"):
            # Made for one person and leased to them at once.
            make_lease(comparison=comparison, annotator=user)
        page = html(client.get(reverse("compare", args=[f"same{number}"])))
        assert own_text in page
        for own in (f"same{number}", f"Same{number}", f"user{number}", own_text):
            page = page.replace(own, "OWN")
        page = re.sub(r'data-user="\d+"', "", page)
        pages.append(without_chance(page))
    assert pages[0] == pages[1]


def test_what_is_given_to_the_editor_is_the_answer_and_nothing_beside_it(
    signed_in, project
):
    a = make_completion(
        "\n  raw **text** </textarea>", prompt=make_prompt(project=project)
    )
    make_comparison(a=a, b=make_completion("other", prompt=a.prompt))
    text = html(signed_in.get(compare_url(project)))
    boxes = re.findall(
        r"<textarea[^>]*name=\"edited_\w+\"[^>]*>\n(.*?)</textarea>", text, re.S
    )
    assert sorted(boxes) == sorted(["\n  raw **text** &lt;/textarea&gt;", "other"])


def test_answers_are_shown_as_rendered_and_markup_of_a_prompt_is_harmless(
    signed_in, project
):
    prompt = make_prompt("<script>alert(1)</script> **bold**", project=project)
    a = make_completion("x", prompt=prompt, html="<p>made <strong>safe</strong></p>")
    make_comparison(a=a, b=make_completion(prompt=prompt))
    text = html(signed_in.get(compare_url(project)))
    assert "made <strong>safe</strong>" in text
    assert "<script>alert" not in text
    assert "<strong>bold</strong>" in text


def test_a_chat_shows_its_turns_in_order_and_its_system_prompt_folded(
    signed_in, project
):
    prompt = make_prompt(
        project=project,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "first question"},
            {"role": "assistant", "content": "first reply"},
            {"role": "user", "content": "second question"},
        ],
    )
    make_comparison(prompt=prompt)
    text = html(signed_in.get(compare_url(project)))
    places = [
        text.index(part)
        for part in ("first question", "first reply", "second question")
    ]
    assert places == sorted(places)
    folded = re.search(r'<details class="system">.*?</details>', text, re.S)
    assert folded and "Be brief." in folded[0] and "Be kind." in folded[0]


def test_the_system_prompt_that_was_sampled_with_is_shown_not_todays(
    signed_in, project
):
    comparison = make_comparison(project=project)
    for answer in (comparison.a, comparison.b):
        answer.sampling |= {"system_prompt": "Speak like a cook."}
        answer.save()
    project.settings = {"sampling": {"system_prompt": "Speak like a clerk."}}
    project.save()
    page = html(signed_in.get(compare_url(project)))
    assert "Speak like a cook." in page
    assert "clerk" not in page


def test_reload_shows_the_same_pair_in_the_same_order(signed_in, project):
    for _number in range(3):
        make_comparison(project=project)
    first, second = (html(signed_in.get(compare_url(project))) for _again in range(2))
    assert re.search(r'data-lease="(\S+)"', first)[1] in second
    assert Lease.objects.count() == 1


def test_an_empty_desk_says_what_it_waits_for_and_asks_again(signed_in, project):
    text = html(signed_in.get(compare_url(project)))
    assert "No prompts have been imported yet" in text
    assert "Waiting for the next pair" in text and "on its way" not in text
    make_prompt(project=project)
    text = html(signed_in.get(compare_url(project)))
    assert "vllm: not running" in text
    assert 'hx-trigger="every 3s"' in text


def test_where_only_pairs_were_imported_no_answers_are_promised(signed_in, project):
    """The model "is writing two new answers" there, and never did."""
    make_prompt(project=project, is_asked=False)
    text = html(signed_in.get(compare_url(project)))
    assert "Only pairs that were judged elsewhere have been imported" in text
    assert "vllm" not in text and "is writing" not in text


def test_asking_again_in_vain_swaps_nothing(signed_in, project):
    text = html(signed_in.get(compare_url(project)))
    again = re.search(r'hx-get="([^"]+)"', text)[1].replace("&amp;", "&")
    assert signed_in.get(again, headers=HTMX).status_code == 204
    comparison = make_comparison(project=project)
    response = signed_in.get(again, headers=HTMX)
    assert response.status_code == 200
    assert comparison.a.text in html(response)


def test_the_page_may_not_be_kept_by_a_cache(signed_in, project):
    assert "no-store" in signed_in.get(compare_url(project))["Cache-Control"]

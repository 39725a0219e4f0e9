"""The compare page without a browser: what it shows, what each act answers."""

import re

import pytest
from django.urls import reverse

from annotation.models import Judgment, Lease
from annotation.project_settings import of
from tests.factories import (
    make_comparison,
    make_completion,
    make_lease,
    make_pair,
    make_policy,
    make_prompt,
)

HTMX = {"HX-Request": "true"}


@pytest.fixture
def signed_in(client, annotator):
    client.force_login(annotator)
    return client


@pytest.fixture
def lease(project, annotator):
    return make_lease(comparison=make_comparison(project=project), annotator=annotator)


def html(response) -> str:
    return response.content.decode()


def compare_url(project) -> str:
    return reverse("compare", args=[project.slug])


def judge_url(lease) -> str:
    return reverse("judge", args=[lease.key])


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
    assert folded and "Be brief." in folded[0]


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


def test_a_plain_form_judges_and_leads_to_the_next_pair(signed_in, project, lease):
    response = signed_in.post(
        judge_url(lease), {"verdict": "first", "comment": "clear"}
    )
    assert response.status_code == 302
    assert response["Location"] == compare_url(project)
    judgment = Judgment.objects.get()
    assert (judgment.verdict, judgment.winner_id) == ("first", lease.first_id)
    assert judgment.comment == "clear"


def test_htmx_gets_the_next_pair_alone_in_the_same_answer(signed_in, project, lease):
    following = make_comparison(project=project)
    response = signed_in.post(judge_url(lease), {"verdict": "second"}, headers=HTMX)
    text = html(response)
    assert response.status_code == 200
    assert text.lstrip().startswith("<section") and "<html" not in text
    assert following.a.text in text
    assert lease.first.text not in text
    assert "Saved: B is better" in text
    assert reverse("undo", args=[Judgment.objects.get().pk]) in text


def test_the_same_form_sent_twice_makes_one_judgment_and_no_complaint(signed_in, lease):
    for _again in range(2):
        response = signed_in.post(judge_url(lease), {"verdict": "tie"}, headers=HTMX)
        assert response.status_code == 200
    assert Judgment.objects.count() == 1


def test_a_newline_typed_with_and_without_javascript_is_the_same_body(signed_in, lease):
    """A plain form sends CR LF where the script sends LF; both repeat one judgment."""
    for comment in ("one\r\ntwo", "one\ntwo"):
        response = signed_in.post(
            judge_url(lease), {"verdict": "tie", "comment": comment}
        )
        assert response.status_code == 302
    assert Judgment.objects.get().comment == "one\ntwo"


def test_another_verdict_for_a_judged_pair_is_409_and_gives_the_text_back(
    signed_in, lease
):
    signed_in.post(judge_url(lease), {"verdict": "tie"})
    response = signed_in.post(
        judge_url(lease), {"verdict": "first", "comment": "my <thoughts>"}, headers=HTMX
    )
    assert response.status_code == 409
    assert "my &lt;thoughts&gt;" in html(response)
    assert "This one is closed" in html(response)
    assert Judgment.objects.get().verdict == "tie"


def test_too_late_and_full_is_410_and_gives_the_text_back(
    signed_in, project, lease, other_annotator
):
    """The lease ran out, and somebody else has filled the only slot."""
    lease.slot.delete()
    response = signed_in.post(judge_url(lease), {"verdict": "first", "comment": "mine"})
    text = html(response)
    assert response.status_code == 410
    assert "mine" in text and "<html" in text
    assert compare_url(project) in text


@pytest.mark.parametrize(
    "data", [{}, {"verdict": "left"}, {"verdict": "first", "comment": "x" * 10_001}]
)
def test_an_invalid_judgment_is_422_and_keeps_the_pair_and_the_text(
    signed_in, lease, data
):
    data = {"comment": "keep me", **data}
    response = signed_in.post(judge_url(lease), data, headers=HTMX)
    text = html(response)
    assert response.status_code == 422
    assert f'data-lease="{lease.key}"' in text
    assert data["comment"] in text
    assert 'role="alert"' in text
    assert not Judgment.objects.exists()


def test_skip_ends_the_lease_and_keeps_what_was_typed_as_the_reason(
    signed_in, project, lease
):
    following = make_comparison(project=project)
    url = reverse("skip", args=[lease.key])
    response = signed_in.post(url, {"comment": "not my language"}, headers=HTMX)
    lease.refresh_from_db()
    assert (lease.outcome, lease.skip_reason) == ("skipped", "not my language")
    assert following.a.text in html(response)
    assert not Judgment.objects.exists()


def test_undo_brings_the_pair_back_with_its_comment(signed_in, lease):
    signed_in.post(judge_url(lease), {"verdict": "first", "comment": "was clear"})
    judgment = Judgment.objects.get()
    response = signed_in.post(reverse("undo", args=[judgment.pk]), headers=HTMX)
    text = html(response)
    assert response.status_code == 200
    assert lease.first.text in text and "was clear" in text
    assert f'data-lease="{lease.key}"' not in text, "a fresh lease, a fresh key"


def test_undo_by_a_plain_form_leads_to_the_pair(signed_in, project, lease):
    signed_in.post(judge_url(lease), {"verdict": "first"})
    response = signed_in.post(reverse("undo", args=[Judgment.objects.get().pk]))
    assert response["Location"] == compare_url(project)
    assert lease.first.text in html(signed_in.get(compare_url(project)))


def test_what_a_round_has_taken_cannot_be_undone_and_the_page_says_so(
    signed_in, project, annotator
):
    from django.utils import timezone

    pair = make_pair(project=project, annotator=annotator, frozen_at=timezone.now())
    judgment = pair.decision.comparison.judgments.get()
    response = signed_in.post(reverse("undo", args=[judgment.pk]), headers=HTMX)
    assert response.status_code == 409
    judgment.refresh_from_db()
    assert judgment.undone_at is None


def test_an_empty_desk_says_what_it_waits_for_and_asks_again(signed_in, project):
    text = html(signed_in.get(compare_url(project)))
    assert "No prompts have been imported yet" in text
    make_prompt(project=project)
    text = html(signed_in.get(compare_url(project)))
    assert "vllm: not running" in text
    assert 'hx-trigger="every 3s"' in text


def test_asking_again_in_vain_swaps_nothing(signed_in, project):
    text = html(signed_in.get(compare_url(project)))
    again = re.search(r'hx-get="([^"]+)"', text)[1].replace("&amp;", "&")
    assert signed_in.get(again, headers=HTMX).status_code == 204
    comparison = make_comparison(project=project)
    response = signed_in.get(again, headers=HTMX)
    assert response.status_code == 200
    assert comparison.a.text in html(response)


def test_strength_and_reasons_are_asked_only_where_the_project_says_so(
    signed_in, project, lease
):
    assert 'name="strength"' not in html(signed_in.get(compare_url(project)))
    project.settings = {"ask_strength": True, "ask_reasons": ["correct", "clear"]}
    project.save()
    assert of(project).ask_strength
    text = html(signed_in.get(compare_url(project)))
    assert text.count('name="strength"') == 3
    assert "checked" not in text, "nothing may be chosen beforehand"
    data = {"verdict": "first", "strength": "3", "reasons": ["clear", "correct"]}
    signed_in.post(judge_url(lease), data)
    judgment = Judgment.objects.get()
    assert (judgment.strength, judgment.reasons) == (3, ["clear", "correct"])


def test_queries_of_judge_and_next_do_not_grow_with_the_stock(
    signed_in, project, django_assert_max_num_queries
):
    def judge_one():
        signed_in.get(compare_url(project))
        held = Lease.objects.get(outcome="")
        with django_assert_max_num_queries(60) as counted:
            signed_in.post(judge_url(held), {"verdict": "tie"}, headers=HTMX)
        return len(counted)

    for _number in range(3):
        make_comparison(project=project)
    few = judge_one()
    for _number in range(20):
        make_comparison(project=project)
    assert judge_one() == few


def test_the_page_may_not_be_kept_by_a_cache(signed_in, project):
    assert "no-store" in signed_in.get(compare_url(project))["Cache-Control"]

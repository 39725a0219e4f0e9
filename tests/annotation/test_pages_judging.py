"""The acts of the compare page without a browser: what each of them answers."""

import re

import pytest
from django.urls import reverse

from annotation.models import Decision, Judgment, Lease
from annotation.project_settings import of
from tests.annotation.pages import HTMX, compare_url, html
from tests.factories import make_comparison, make_lease, make_pair, make_user


@pytest.fixture
def lease(project, annotator):
    return make_lease(comparison=make_comparison(project=project), annotator=annotator)


def judge_url(lease) -> str:
    return reverse("judge", args=[lease.key])


def test_an_edit_sent_by_a_plain_form_is_stored_under_the_picked_answer(
    signed_in, project, lease
):
    """A plain form sends both boxes; the one that was left alone is no edit."""
    data = {
        "verdict": "second",
        "edited_first": lease.first.text,
        "edited_second": "Better\r\nby far.",
    }
    assert signed_in.post(judge_url(lease), data).status_code == 302
    judgment = Judgment.objects.get()
    assert judgment.edited.text == "Better\nby far."
    assert judgment.edited.edited_from == lease.second


@pytest.mark.parametrize("verdict", ["second", "tie", "both_bad"])
def test_an_edit_of_what_was_not_picked_is_422_and_comes_back(
    signed_in, lease, verdict
):
    data = {"verdict": verdict, "edited_first": "Improved A."}
    response = signed_in.post(judge_url(lease), data, headers=HTMX)
    assert response.status_code == 422
    assert "You have improved answer A" in html(response)
    assert "\nImproved A.</textarea>" in html(response)
    assert not Judgment.objects.exists()


def test_an_emptied_edit_is_422(signed_in, lease):
    data = {"verdict": "first", "edited_first": ""}
    response = signed_in.post(judge_url(lease), data, headers=HTMX)
    assert response.status_code == 422
    assert "You have emptied answer A" in html(response)


def test_criteria_are_asked_where_the_project_has_some_and_stored_by_completion(
    signed_in, project, lease
):
    project.settings = {"criteria": ['it\'s "helpful"', "harmless"]}
    project.save()
    text = html(signed_in.get(compare_url(project)))
    assert text.count('name="criterion:') == 6
    assert "checked" not in text, "nothing may be chosen beforehand"
    data = {"verdict": "tie", 'criterion:it\'s "helpful"': "second"}
    assert signed_in.post(judge_url(lease), data).status_code == 302
    assert Judgment.objects.get().criteria == {'it\'s "helpful"': lease.second_id}


def test_a_criterion_that_is_gone_is_422_and_nothing_typed_is_lost(signed_in, lease):
    data = {"verdict": "tie", "criterion:kind": "first", "comment": "keep me"}
    response = signed_in.post(judge_url(lease), data, headers=HTMX)
    assert response.status_code == 422
    assert "keep me" in html(response)


def test_undo_brings_edit_and_criteria_back(signed_in, project, lease):
    project.settings = {"criteria": ["helpful"]}
    project.save()
    data = {
        "verdict": "second",
        "edited_second": "Better.",
        "criterion:helpful": "first",
    }
    signed_in.post(judge_url(lease), data)
    response = signed_in.post(
        reverse("undo", args=[Judgment.objects.get().pk]), headers=HTMX
    )
    text = html(response)
    assert "\nBetter.</textarea>" in text
    assert re.search(r'name="criterion:helpful" value="first" checked', text)


def test_a_flag_is_kept_with_its_words_and_the_next_pair_comes(
    signed_in, project, lease
):
    following = make_comparison(project=project)
    url = reverse("skip", args=[lease.key])
    data = {"flag": "unsafe", "flag_text": "insults", "comment": "not\r\nthis"}
    response = signed_in.post(url, data, headers=HTMX)
    lease.refresh_from_db()
    assert (lease.outcome, lease.flag) == ("skipped", "unsafe")
    assert lease.skip_reason == "insults\n\nnot\nthis"
    assert "Flagged: unsafe" in html(response)
    assert following.a.text in html(response)


def test_beside_a_skip_stands_what_undo_would_take_back(signed_in, project, lease):
    make_comparison(project=project), make_comparison(project=project)
    judged = signed_in.post(
        reverse("judge", args=[lease.key]), {"verdict": "tie"}, headers=HTMX
    )
    assert "Saved: Tie" in html(judged) and "Last: Tie" not in html(judged)
    ahead = Lease.objects.get(ended_at=None)
    skipped = html(signed_in.post(reverse("skip", args=[ahead.key]), {}, headers=HTMX))
    assert "Skipped" in skipped and "Last: Tie" in skipped


def test_a_long_comment_is_the_whole_reason_of_a_skip(signed_in, lease):
    words = "x" * 450 + " and the end matters"
    signed_in.post(reverse("skip", args=[lease.key]), {"comment": words}, headers=HTMX)
    lease.refresh_from_db()
    assert (lease.outcome, lease.skip_reason) == ("skipped", words)


@pytest.mark.parametrize("flag", [{}, {"flag": "unsafe"}])
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"comment": "x" * 10_001}, "at most 10000 are accepted"),
        ({"edited_second": "Better."}, "You have improved answer B"),
    ],
)
def test_what_a_skip_has_no_place_for_is_422_and_comes_back(
    signed_in, lease, flag, typed, said
):
    url = reverse("skip", args=[lease.key])
    response = signed_in.post(url, {**typed, **flag}, headers=HTMX)
    assert response.status_code == 422
    assert said in html(response) and next(iter(typed.values())) in html(response)
    lease.refresh_from_db()
    assert lease.outcome == ""


@pytest.mark.parametrize(
    "data",
    [
        {"flag": "other"},
        {"flag": "boring"},
        {"flag": "unsafe", "flag_text": "x" * 10_001},
    ],
)
def test_a_wrong_flag_is_422_and_keeps_the_pair_and_what_was_typed(
    signed_in, lease, data
):
    data = {"comment": "keep me", **data}
    url = reverse("skip", args=[lease.key])
    response = signed_in.post(url, data, headers=HTMX)
    assert response.status_code == 422
    assert f'data-lease="{lease.key}"' in html(response)
    assert "keep me" in html(response)
    lease.refresh_from_db()
    assert lease.outcome == ""


def test_what_is_asked_beside_the_verdict_costs_the_judging_request_no_query(
    signed_in, project, django_assert_max_num_queries
):
    """Reasons and criteria are in the judgment's own row."""

    def judge_one(**data):
        signed_in.get(compare_url(project))
        held = Lease.objects.get(outcome="")
        with django_assert_max_num_queries(60) as counted:
            response = signed_in.post(
                judge_url(held), {"verdict": "first", **data}, headers=HTMX
            )
        assert response.status_code == 200
        return len(counted)

    for _number in range(4):
        make_comparison(project=project)
    judge_one()
    plain = judge_one()
    project.settings = {
        **project.settings,
        "criteria": ["helpful"],
        "ask_reasons": ["clear"],
    }
    project.save()
    data = {"criterion:helpful": "first", "reasons": ["clear"]}
    assert judge_one(**data) == plain


def test_the_last_ten_are_a_drawer_for_the_script_and_the_history_without(
    signed_in, project, lease
):
    signed_in.post(judge_url(lease), {"verdict": "second"})
    url = reverse("last_ten", args=[project.slug])
    text = html(signed_in.get(url, headers=HTMX))
    assert "<html" not in text and "B is better" in text
    assert reverse("undo", args=[Judgment.objects.get().pk]) in text
    assert signed_in.get(url)["Location"] == reverse("history", args=[project.slug])


def test_the_last_ten_say_what_a_reviewer_decided(signed_in, project, lease):
    signed_in.post(judge_url(lease), {"verdict": "tie"})
    reviewer = make_user(project=project)
    Decision.objects.update(method="reviewer", decided_by=reviewer)
    url = reverse("last_ten", args=[project.slug])
    text = html(signed_in.get(url, headers=HTMX))
    assert "decided by a reviewer" in text and "trained on" not in text


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


@pytest.mark.parametrize("act", ["judge", "skip"])
@pytest.mark.parametrize("verdict", ["first", "tie"])
def test_the_page_of_a_judgment_undone_elsewhere_says_that_it_was(
    signed_in, lease, act, verdict
):
    """A second tab still holds it: neither "Saved", as nothing stands, nor "Undo that
    first". What was typed there is given back, and the pair waits anew."""
    signed_in.post(judge_url(lease), {"verdict": "first", "comment": "clear"})
    signed_in.post(reverse("undo", args=[Judgment.objects.get().pk]))
    data = {"verdict": verdict, "comment": "clear"}
    for headers in (HTMX, {}):
        response = signed_in.post(reverse(act, args=[lease.key]), data, headers=headers)
        text = html(response)
        assert response.status_code == 409
        assert "You undid your judgment of this pair" in text
        assert "Saved" not in text and "Undo that first" not in text
        assert "clear</textarea>" in text
    assert Lease.objects.filter(outcome="").count() == 1
    assert not Judgment.objects.filter(undone_at=None).exists()


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

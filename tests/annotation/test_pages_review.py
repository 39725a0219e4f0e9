"""The review page: what it shows and hides, and each act with and without htmx."""

import pytest
from django.urls import reverse

from annotation.adjudicating import shown_to
from annotation.models import Decision, ReviewClaim, Role
from tests.acts import decide
from tests.annotation.pages import HTMX, html
from tests.factories import make_comparison, make_judgment, make_project, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(settings={"stock": 0, "quota": 2}, guidelines="Be **kind**.")


@pytest.fixture
def signed_in(client, rita):
    client.force_login(rita)
    return client


def split(project, **fields):
    comparison = make_comparison(project=project, quota=2)
    people = [make_user(f"{name}{comparison.pk}") for name in ("zoe", "yan")]
    for user, verdict in zip(people, ("first", "second"), strict=True):
        make_judgment(comparison=comparison, annotator=user, verdict=verdict, **fields)
    decide(comparison)
    return comparison


def address(project, name="review", *ids):
    return reverse(name, args=[project.slug, *ids])


def test_it_shows_prompt_answers_and_what_annotators_said_without_names(
    signed_in, project, rita
):
    comparison = split(
        project, strength=2, reasons=["correct"], comment="<b>Clear</b> & short"
    )
    text = html(signed_in.get(address(project)))
    assert comparison.prompt.messages[0]["content"] in text
    assert comparison.a.text in text and comparison.b.text in text
    assert "A is better" in text and "clearly" in text and "correct" in text
    assert "&lt;b&gt;Clear&lt;/b&gt; &amp; short" in text
    assert "No verdict has more than half of the judgments." in text
    assert "zoe" not in text and "yan" not in text
    assert comparison.policy.name not in text


def test_criteria_are_told_in_the_order_the_reviewer_sees(signed_in, project, rita):
    comparison = make_comparison(project=project)
    won = {"helpful": comparison.b_id, "short": None}
    make_judgment(comparison=comparison, criteria=won, waits_for_review=True)
    decide(comparison)
    text = html(signed_in.get(address(project)))
    first, _second = shown_to(rita, comparison)
    assert f"helpful: {'A' if first == comparison.b_id else 'B'}" in text
    assert "short: Tie" in text


def test_each_turn_of_a_chat_says_whose_it_is_the_last_one_too(signed_in, project):
    comparison = split(project)
    question = comparison.prompt.messages[0]
    chat = [question, {"role": "assistant", "content": "So?"}, question]
    comparison.prompt.messages = chat
    comparison.prompt.save()
    text = html(signed_in.get(address(project)))
    assert text.count('<span class="turn-role">User</span>') == 2


def test_the_verdicts_are_told_in_the_order_the_reviewer_sees(signed_in, project, rita):
    for _ in range(6):
        comparison = split(project)
        desk = signed_in.get(address(project) + f"?at={comparison.pk}").context["desk"]
        first, _second = shown_to(rita, comparison)
        assert desk.comparison == comparison
        assert str(desk.first) == (
            comparison.a.html if first == comparison.a_id else comparison.b.html
        )
        assert [o.verdict for o in desk.opinions] == ["first", "second"]


def test_names_are_for_managers_who_ask(client, signed_in, project):
    split(project)
    assert "zoe" not in html(signed_in.get(address(project) + "?names=1"))
    client.force_login(make_user(project=project, role=Role.MANAGER))
    ReviewClaim.objects.all().delete()
    assert "zoe" not in html(client.get(address(project)))
    text = html(client.get(address(project) + "?names=1"))
    assert "zoe" in text and "yan" in text and "Hide names" in text


def test_ones_own_judgment_is_marked_where_nobody_else_can_review(
    signed_in, project, rita
):
    comparison = make_comparison(project=project, quota=2)
    for user, verdict in ((rita, "first"), (None, "tie")):
        make_judgment(comparison=comparison, annotator=user, verdict=verdict)
    decide(comparison)
    assert "yours" in html(signed_in.get(address(project)))
    make_user(project=project, role=Role.REVIEWER)
    text = html(signed_in.get(address(project)))
    assert "You judged what is left (1) yourself" in text


def test_settling_brings_the_next_in_the_same_request(signed_in, project, rita):
    one, two = split(project), split(project)
    signed_in.get(address(project))
    response = signed_in.post(
        address(project, "settle", one.pk),
        {
            "verdict": "tie",
            "note": "Both say six\r\nminutes. ",
            "category": "edge_case",
        },
        headers=HTMX,
    )
    assert response.status_code == 200
    assert response.context["desk"].comparison == two
    assert "Decided: Tie" in html(response) and "<html" not in html(response)
    decision = Decision.objects.get(method="reviewer")
    assert (decision.comparison, decision.decided_by) == (one, rita)
    assert decision.note == "Both say six\nminutes."
    assert decision.category == "edge_case"

    response = signed_in.post(
        address(project, "settle", two.pk), {"verdict": "undecidable"}, headers=HTMX
    )
    assert "Nothing waits for a reviewer" in html(response)
    assert "Decided: Left out" in html(response)


def test_without_javascript_it_goes_on_by_redirects(signed_in, project):
    one, two = split(project), split(project)
    response = signed_in.post(
        address(project, "settle", one.pk), {"verdict": "first"}, follow=True
    )
    assert response.context["desk"].comparison == two
    response = signed_in.post(address(project, "undo_settled", one.pk), follow=True)
    assert response.context["desk"].comparison == one


def test_undo_brings_it_back_with_what_was_typed(signed_in, project):
    one = split(project)
    split(project)
    signed_in.post(
        address(project, "settle", one.pk),
        {"verdict": "tie", "note": "my words", "category": "subjective"},
        headers=HTMX,
    )
    response = signed_in.post(address(project, "undo_settled", one.pk), headers=HTMX)
    assert response.context["desk"].comparison == one
    text = html(response)
    assert "Undone" in text and "my words" in text
    assert 'value="subjective" data-key="7" aria-keyshortcuts="7" checked' in text


def test_coming_too_late_says_so_and_keeps_what_was_typed(signed_in, project):
    comparison = split(project)
    other = make_user(project=project, role=Role.REVIEWER)
    client = type(signed_in)()
    client.force_login(other)
    client.post(address(project, "settle", comparison.pk), {"verdict": "tie"})
    response = signed_in.post(
        address(project, "settle", comparison.pk),
        {"verdict": "first", "note": "an hour of work"},
        headers=HTMX,
    )
    assert response.status_code == 409
    assert "Another reviewer has decided this pair." in html(response)
    assert "an hour of work" in html(response)
    response = signed_in.post(
        address(project, "undo_settled", comparison.pk), headers=HTMX
    )
    assert response.status_code == 403


@pytest.mark.parametrize(
    "sent", [{}, {"verdict": "a"}, {"verdict": "tie", "category": "?"}]
)
def test_what_makes_no_decision_is_422_with_the_pair_still_there(
    signed_in, project, sent
):
    comparison = split(project)
    response = signed_in.post(
        address(project, "settle", comparison.pk), sent | {"note": "kept"}, headers=HTMX
    )
    assert response.status_code == 422
    assert response.context["desk"].comparison == comparison
    assert "kept" in html(response)
    assert not Decision.objects.filter(method="reviewer").exists()


@pytest.mark.parametrize("query", ["?at=x", "?at=-1", "?after=9999999999999999999999"])
def test_an_address_with_nonsense_shows_the_queue(signed_in, project, query):
    comparison = split(project)
    response = signed_in.get(address(project) + query)
    assert response.context["desk"].comparison == comparison


def test_an_empty_queue_says_what_to_do(client, project):
    project.settings["quota"] = 1
    project.save()
    client.force_login(make_user(project=project, role=Role.MANAGER))
    text = html(client.get(address(project)))
    assert "Each pair is judged once, so nobody can disagree." in text
    assert reverse("project_settings", args=[project.slug]) in text


def test_how_many_wait_stands_in_the_navigation_of_reviewers_alone(
    client, signed_in, project
):
    for _ in range(3):
        split(project)
    pairs = reverse("pairs", args=[project.slug])
    assert '<span class="count">3</span>' in html(signed_in.get(pairs))
    overview = html(signed_in.get(reverse("project", args=[project.slug])))
    # Beside the navigation once: in the list of what waits.
    assert overview.count('<span class="count">3</span>') == 1
    assert '<b class="numeric">3</b> <span>comparisons wait for a reviewer' in overview
    assert "Waiting for a reviewer" not in overview
    home = html(signed_in.get(reverse("home")))
    assert "Waiting for a reviewer: 3" in home
    client.force_login(make_user(project=project))
    overview = html(client.get(reverse("project", args=[project.slug])))
    assert "reviewer" not in overview.lower()


def test_a_long_queue_is_counted_no_further_than_it_is_told(
    signed_in, project, monkeypatch
):
    monkeypatch.setattr("annotation.adjudicating.MOST_COUNTED", 2)
    split(project)
    split(project)
    pairs = reverse("pairs", args=[project.slug])
    assert '<span class="count">2</span>' in html(signed_in.get(pairs))
    for _ in range(3):
        split(project)
    assert '<span class="count">2+</span>' in html(signed_in.get(pairs))
    assert "2+ waiting" in html(signed_in.get(address(project)))


def test_its_queries_do_not_grow_with_queue_or_judgments(
    signed_in, project, django_assert_max_num_queries
):
    def queries() -> int:
        with django_assert_max_num_queries(30) as counted:
            signed_in.get(address(project))
        return len(counted)

    split(project)
    signed_in.get(address(project))
    few = queries()
    for _ in range(5):
        split(project)
    assert queries() == few

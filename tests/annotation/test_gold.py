"""Gold: how it is made, imported and retired, on the pages too."""

from io import BytesIO

import pytest
from django.contrib.messages import get_messages
from django.db import IntegrityError, transaction
from django.urls import reverse

from annotation import filling, gold, stock, trust
from annotation.errors import BadExplanation, GoldRefused
from annotation.models import Completion, GoldItem, Prompt, Role
from tests.factories import (
    judge_gold,
    make_comparison,
    make_gold,
    make_judgment,
    make_pair,
    make_probe,
    make_prompt,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def imported(project, author, *lines):
    return gold.import_gold(project, author, BytesIO("\n".join(lines).encode()))


def test_a_pair_becomes_gold_once_with_its_chosen_answer_as_winner(project, reviewer):
    pair = make_pair(project=project)
    item = gold.from_pair(pair, reviewer, " because\r\nit is ")
    assert (item.winner, item.a, item.b) == (pair.chosen, pair.chosen, pair.rejected)
    assert item.explanation == "because\nit is"
    assert item.source == pair.decision.comparison
    assert item.author == reviewer
    with pytest.raises(GoldRefused):
        gold.from_pair(pair, reviewer)


@pytest.mark.parametrize("verdict", ["first", "second", "tie", "both_bad"])
def test_a_judgment_becomes_gold_with_whatever_verdict_it_has(
    project, reviewer, verdict
):
    judgment = make_judgment(project=project, annotator=reviewer, verdict=verdict)
    item = gold.from_judgment(judgment, reviewer)
    assert item.winner == judgment.winner
    assert item.expected == (verdict if judgment.winner is None else "winner")
    assert {item.a, item.b} == {judgment.comparison.a, judgment.comparison.b}


def test_a_repeat_becomes_gold_of_the_comparison_it_repeats(
    project, reviewer, annotator
):
    earlier = make_judgment(project=project, annotator=annotator)
    probe = make_probe(annotator, repeats=earlier)
    again = make_judgment(comparison=probe.comparison, annotator=annotator)
    assert gold.from_judgment(again, reviewer).source == earlier.comparison


def test_an_undone_judgment_and_a_bad_explanation_are_refused(project, reviewer):
    judgment = make_judgment(project=project, undone_at="2026-01-01T00:00Z")
    with pytest.raises(GoldRefused):
        gold.from_judgment(judgment, reviewer)
    with pytest.raises(BadExplanation):
        gold.from_pair(make_pair(project=project), reviewer, "\0")
    assert not GoldItem.objects.exists()


def test_the_database_refuses_gold_that_names_no_winner_or_a_wrong_one(project):
    for wrong in (
        {"expected": "winner", "winner": None},
        {"expected": "tie", "winner": make_pair(project=project).chosen},
        {"expected": "winner", "winner": make_pair(project=project).chosen},
        {"was_wrong": True},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            make_gold(project=project, **wrong)


def test_gold_is_imported_and_bad_lines_are_told(project, reviewer):
    report = imported(
        project,
        reviewer,
        '{"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "explanation": "sums"}',
        '{"prompt": [{"role": "user", "content": "2 + 2?"}], "chosen":'
        ' [{"role": "assistant", "content": "5"}], "rejected": "4"}',
        '{"prompt": "怎样？", "answers": ["好", "行"], "expected": "tie"}',
        '{"prompt": "x", "chosen": "4"}',
        '{"prompt": "x", "chosen": "4", "rejected": "4"}',
        '{"prompt": "x", "chosen": "4", "rejected": " "}',
        '{"prompt": "x", "answers": ["4"], "expected": "both_bad"}',
        '{"prompt": "x", "chosen": "4", "rejected": "5", "expected": "best"}',
        '{"prompt": "x", "chosen": "4", "rejected": "5", "explanation": 3}',
        '{"chosen": "4", "rejected": "5"}',
        "{",
    )
    # The second line has the first one's answers: the same two are gold once.
    assert (report.accepted, report.duplicates) == (2, 1)
    assert [bad.line for bad in report.rejected] == [4, 5, 6, 7, 8, 9, 10, 11]
    for bad, word in zip(
        report.rejected,
        [
            "rejected",
            "same",
            "empty",
            "two",
            "expected",
            "explanation",
            "prompt",
            "JSON",
        ],
        strict=True,
    ):
        assert word in bad.reason
    one, tie = GoldItem.objects.order_by("id")
    assert (one.winner.text, one.explanation) == ("4", "sums")
    assert (one.a.source, one.a.html) == (Completion.Source.IMPORTED, "<p>4</p>\n")
    assert (tie.expected, tie.winner, tie.a.text) == ("tie", None, "好")
    assert Prompt.objects.filter(is_gold=True).count() == 2

    again = imported(
        project, reviewer, '{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}'
    )
    assert (again.accepted, again.duplicates) == (0, 1)
    assert Completion.objects.count() == 4


def test_prompts_of_gold_are_never_answered_by_the_model(project, reviewer):
    imported(project, reviewer, '{"prompt": "x?", "chosen": "4", "rejected": "5"}')
    assert not stock.is_wanting(project)
    assert not filling._least_used(project, 3)
    own = make_prompt(project=project)
    assert filling._least_used(project, 3) == [own]


def test_a_prompt_that_is_there_already_stays_as_it_is(project, reviewer):
    make_prompt("x?", project=project)
    imported(project, reviewer, '{"prompt": "x?", "chosen": "4", "rejected": "5"}')
    assert not Prompt.objects.get().is_gold


def test_retired_gold_may_be_made_anew_and_called_wrong_later(project, reviewer):
    pair = make_pair(project=project)
    item = gold.from_pair(pair, reviewer)
    gold.retire(item, reviewer)
    at = item.retired_at
    assert (item.retired_by, item.was_wrong) == (reviewer, False)
    gold.retire(item, make_user(), was_wrong=True)
    assert (item.retired_at, item.retired_by, item.was_wrong) == (at, reviewer, True)
    assert gold.from_pair(pair, reviewer) != item


def test_items_say_how_often_they_were_judged_and_right(
    project, annotator, other_annotator
):
    item, tie = make_gold(project=project), make_gold(project=project, expected="tie")
    judge_gold(annotator, item)
    judge_gold(other_annotator, item, is_right=False)
    judge_gold(annotator, tie)
    make_probe(other_annotator, gold=tie)
    undone = judge_gold(make_user(project=project), item)
    undone.undone_at = undone.created_at
    undone.save()
    rows = [(i.pk, i.n_judged, i.n_right) for i in gold.items(project)]
    assert rows == [(tie.pk, 1, 0), (item.pk, 2, 1)]


# --- Pages ---------------------------------------------------------------------------
@pytest.fixture
def page(client, project, manager):
    client.force_login(manager)
    return reverse("gold", args=[project.slug])


def said(response):
    return [str(message) for message in get_messages(response.wsgi_request)]


def test_the_page_imports_lists_and_retires(client, page, project):
    response = client.post(
        page, {"text": '{"prompt": "x?", "chosen": "4", "rejected": "5"}\n{'}
    )
    assert response.context["report"].accepted == 1
    assert b"not JSON" in response.content
    item = GoldItem.objects.get()
    assert "not judged yet" in client.get(page).content.decode()

    response = client.post(
        reverse("retire_gold", args=[item.pk]), {"was_wrong": "1", "back": "page=1"}
    )
    assert response.url == f"{page}?page=1"
    item.refresh_from_db()
    assert item.was_wrong and item.retired_at
    assert b"was wrong" in client.get(page).content


def test_an_empty_import_says_so(client, page):
    response = client.post(page, {})
    assert response.status_code == 422
    assert b"Choose a file, or paste some lines." in response.content


def test_who_is_below_the_floor_stands_first_and_can_be_let_count(
    client, page, project, annotator, other_annotator
):
    project.settings = {"gold_rate": 0.05, "gold_least": 1}
    project.save()
    judge_gold(annotator, make_gold(project=project))
    judge_gold(other_annotator, make_gold(project=project), is_right=False)
    waiting = make_judgment(
        project=project, annotator=other_annotator, waits_for_review=True
    )
    response = client.get(page)
    people = [row["username"] for row in response.context["people"]]
    assert people == ["bob", "alice"]
    assert "below the floor" in response.content.decode()

    response = client.post(reverse("let_count", args=[project.slug, "bob"]))
    assert response.url == page
    assert said(response) == ["1 judgment of bob counts now."]
    waiting.refresh_from_db()
    assert waiting.let_count_by.username == "mallory"


@pytest.mark.parametrize("live", [3000, 0])
def test_a_repeat_that_nobody_judged_yet_is_nobodys(
    client, page, project, annotator, monkeypatch, live
):
    """Also where the project is big and its figures were never counted."""
    monkeypatch.setattr("annotation.figures.LIVE", live)
    judgment = make_judgment(project=project, annotator=annotator)
    make_probe(annotator, repeats=judgment)
    judge_gold(annotator, make_gold(project=project))
    assert set(trust.checks(project)) == {"alice"}
    people = client.get(page).context["people"]
    assert [row["username"] for row in people] == ["alice"]


def test_no_button_lets_a_managers_own_count_while_there_is_another(
    client, page, project, manager
):
    make_judgment(project=project, annotator=manager, waits_for_review=True)
    url = reverse("let_count", args=[project.slug, "mallory"])
    assert url in client.get(page).content.decode()
    make_user(project=project, role=Role.REVIEWER)
    text = client.get(page).content.decode()
    assert "1 waits for review" in text and url not in text
    response = client.post(url)
    assert response.status_code == 403
    assert "another reviewer has to let them count" in response.content.decode()


@pytest.mark.parametrize("name", ["nobody", "\0", "no\ud800body"])
def test_nobody_is_let_count_who_is_no_user(client, page, project, name):
    from urllib.parse import quote

    url = reverse("let_count", args=[project.slug, "x"])
    quoted = quote(name, errors="surrogatepass")
    response = client.post(url.replace("/x/", f"/{quoted}/"))
    assert response.status_code == 404


def test_the_page_costs_the_same_queries_however_much_there_is(
    client, page, project, django_assert_max_num_queries
):
    def more(count):
        for _ in range(count):
            judge_gold(make_user(project=project), make_gold(project=project))

    more(2)
    with django_assert_max_num_queries(16):
        client.get(page)
    more(8)
    with django_assert_max_num_queries(16):
        client.get(page)


def test_a_reviewer_makes_gold_from_the_pairs_and_from_the_history(
    client, project, reviewer
):
    client.force_login(reviewer)
    pair = make_pair(project=project)
    listed = client.get(reverse("pairs", args=[project.slug]) + "?state=accepted")
    assert reverse("pair_as_gold", args=[pair.pk]) in listed.content.decode()
    response = client.post(
        reverse("pair_as_gold", args=[pair.pk]),
        {"explanation": "clear", "back": "state=accepted"},
    )
    assert response.url.endswith("/pairs/?state=accepted")
    assert GoldItem.objects.get().explanation == "clear"
    response = client.post(reverse("pair_as_gold", args=[pair.pk]))
    assert said(response)[-1] == "These two answers are gold already."

    judgment = make_judgment(project=project, annotator=reviewer, verdict="tie")
    url = reverse("judgment_as_gold", args=[judgment.pk])
    assert url in client.get(reverse("history", args=[project.slug])).content.decode()
    client.post(url)
    assert GoldItem.objects.filter(expected="tie").count() == 1


def test_an_annotator_is_not_offered_to_make_gold(client, project, annotator):
    make_judgment(project=project, annotator=annotator)
    client.force_login(annotator)
    history = client.get(reverse("history", args=[project.slug])).content.decode()
    assert "Use as gold" not in history


# --- What the annotator sees ---------------------------------------------------------
HOURS_AGO = "2026-01-01T00:00Z"


def set_back(judgment):
    type(judgment).objects.filter(pk=judgment.pk).update(created_at=HOURS_AGO)


def test_an_annotator_is_told_kindly_that_judgments_wait(client, project, annotator):
    project.settings = {"gold_rate": 0.05, "stock": 0}
    project.guidelines = "Be strict."
    project.save()
    make_comparison(project=project)
    waiting = make_judgment(project=project, annotator=annotator, waits_for_review=True)
    client.force_login(annotator)
    compare = reverse("compare", args=[project.slug])
    # Told at once it would say that the pair just judged was gold.
    assert b"wait for a reviewer" not in client.get(compare).content
    set_back(waiting)
    told = client.get(compare).content.decode()
    assert "wait for a reviewer" in told
    assert "Another look at the guidelines" in told
    history = client.get(reverse("history", args=[project.slug])).content.decode()
    assert "How your judgments hold up" in history


def test_ones_own_figures_are_in_the_history_where_a_project_measures(
    client, project, annotator
):
    set_back(judge_gold(annotator, make_gold(project=project)))
    client.force_login(annotator)
    url = reverse("history", args=[project.slug])
    assert b"hold up" not in client.get(url).content
    project.settings = {"repeat_rate": 0.03}
    project.save()
    assert "1&thinsp;/&thinsp;1" in client.get(url).content.decode()


def test_a_probe_looks_like_any_other_pair_in_page_and_history(client, annotator):
    """The same page but for its texts: keys and ids are of the lease alone, and the
    history lists it like the rest."""
    import re

    from tests.factories import make_project

    pages = []
    for rate in (0, 1.0):
        project = make_project(
            slug=f"p{rate:.0f}",
            name="Same",
            settings={"stock": 0, "gold_rate": rate},
            members={annotator: "annotator"},
        )
        make_judgment(project=project, annotator=annotator)
        make_gold(project=project), make_comparison(project=project)
        client.force_login(annotator)
        compare = client.get(reverse("compare", args=[project.slug]))
        lease = annotator.leases.get(project=project, outcome="")
        assert lease.comparison.purpose == ("gold" if rate else "train")
        client.post(reverse("judge", args=[lease.key]), {"verdict": "first"})
        history = client.get(reverse("history", args=[project.slug]))
        pages.append([_bare(page.content.decode()) for page in (compare, history)])
    plain, probed = pages
    assert plain[0] == probed[0]
    # The figures are there as soon as a project measures, whatever came.
    told = re.compile(r'<section class="card told-to".*?</section>', re.S)
    assert told.sub("", probed[1]).split() == plain[1].split()


def _bare(html):
    """Without what differs between any two leases, texts and projects."""
    import re

    for pattern in (
        r"[0-9a-f]{8}-[0-9a-f-]{27}",
        r'value="[A-Za-z0-9]{64}"',
        r'"X-CSRFToken": "[^"]*"',
        r"/projects/p\d/",
        r'data-project="p\d"',
        r"(Question|Answer) \d+",
        r"\d\d:\d\d(:[\d.]+)?",
        r'datetime="[^"]*"',
    ):
        html = re.sub(pattern, "·", html)
    return html

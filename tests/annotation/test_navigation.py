"""The project's navigation: which links each role has, and which of them is where one is."""

import pytest
from django.urls import get_resolver, resolve, reverse

from annotation.models import Role
from annotation.navigation import GROUPS, navigation
from tests.factories import make_pair, make_user

ENTRIES = [entry for _words, entries in GROUPS for entry in entries]
ELSEWHERE = {
    # Of no project, or before there is one.
    *("home", "preferences", "new_project"),
    # Files and parts of pages, which draw no navigation.
    *("export_pairs", "export_file", "export_round", "import_faults"),
    *("import_status", "round_status"),
}


def names(links) -> list[str]:
    return [str(link.words) for link in links]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_link_is_shown_to_those_whom_its_page_lets_in(entry):
    view = resolve(reverse(entry.name, args=["any"])).func
    assert view.needed_role == entry.role


def test_every_page_of_a_project_has_its_place_once():
    placed = [name for entry in ENTRIES for name in (entry.name, *entry.within)]
    # A prompt's page belongs to the list of prompts, which only managers may open.
    placed.remove("prompt")
    assert len(placed) == len(set(placed))
    addresses = {
        pattern.name
        for app in ("annotation.urls", "training.urls")
        for pattern in get_resolver(app).url_patterns
    }
    assert set(placed) == addresses - ELSEWHERE


def test_an_annotator_has_three_links_side_by_side(project):
    drawn = navigation(project, Role.ANNOTATOR, "compare")
    assert names(drawn.groups) == ["Overview", "Compare", "My history"]
    assert [link.current for link in drawn.groups] == ["", "page", ""]
    assert drawn.pages == []


def test_a_reviewer_is_one_click_from_the_queue_and_sees_no_managers_page(project):
    drawn = navigation(project, Role.REVIEWER, "pair")
    assert names(drawn.groups) == [
        *("Overview", "Judge", "Review", "Data", "Checks", "Training")
    ]
    assert names(drawn.pages) == ["Pairs", "Export"]
    assert [link.current for link in drawn.pages] == ["page", ""]
    checks = navigation(project, Role.REVIEWER, "quality")
    assert names(checks.pages) == ["Quality", "Flagged"]
    assert navigation(project, Role.REVIEWER, "project").pages == []


def test_a_prompts_page_is_under_what_the_reader_came_from(project):
    """Reviewers reach it from the overview; the list of prompts is for managers."""
    drawn = navigation(project, Role.REVIEWER, "prompt")
    assert [link.current for link in drawn.groups] == ["page", "", "", "", "", ""]
    drawn = navigation(project, Role.MANAGER, "prompt")
    assert [link.current for link in drawn.groups] == ["", "", "", "true", "", ""]
    assert names(link for link in drawn.pages if link.current) == ["Prompts"]


def test_a_manager_sees_groups_and_the_pages_of_the_one_they_are_in(project):
    drawn = navigation(project, Role.MANAGER, "preview_rules")
    assert names(drawn.groups) == [
        *("Project", "Judge", "Review", "Data", "Checks", "Training")
    ]
    assert [link.current for link in drawn.groups] == ["", "", "", "", "true", ""]
    assert drawn.heading == "Checks"
    assert names(drawn.pages) == ["Quality", "Flagged", "Rules", "Gold"]
    assert [link.current for link in drawn.pages] == ["", "", "page", ""]
    # A group leads to its first page.
    assert drawn.groups[3].url == reverse("pairs", args=[project.slug])


def test_an_address_that_is_nowhere_marks_nothing(project):
    drawn = navigation(project, Role.MANAGER, "")
    assert drawn.pages == []
    assert not any(link.current for link in drawn.groups)


def test_the_page_names_the_group_and_the_link_where_one_is(client, project):
    client.force_login(make_user(project=project, role=Role.MANAGER))
    pair = make_pair(project=project)
    url = reverse("pair", args=[project.slug, pair.pk])
    text = client.get(url).content.decode()
    pairs = reverse("pairs", args=[project.slug])
    assert f'<a href="{pairs}" aria-current="true">Data</a>' in text
    assert '<ul class="pages-here" aria-label="Data">' in text
    assert f'<a href="{pairs}" aria-current="page">Pairs</a>' in text

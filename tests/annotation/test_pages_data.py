"""The pages of prompts, pairs, history and settings."""

import json

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation import project_settings, queries
from annotation.models import Judgment, Role
from annotation.settings_form import SettingsForm
from annotation.views.pairs import filtered
from tests.annotation.pages import html
from tests.factories import (
    make_comparison,
    make_completion,
    make_imported,
    make_judgment,
    make_lease,
    make_pair,
    make_prompt,
    make_user,
)

pytestmark = pytest.mark.both_databases


# --- Prompts -----------------------------------------------------------------------------
@pytest.fixture
def prompts_url(client, project, manager):
    client.force_login(manager)
    return reverse("prompts", args=[project.slug])


def test_queries_of_the_prompts_page_do_not_grow_with_the_prompts(
    client, project, prompts_url, django_assert_max_num_queries
):
    def n_queries() -> int:
        with django_assert_max_num_queries(20) as counted:
            client.get(prompts_url)
        return len(counted)

    make_prompt(project=project)
    few = n_queries()
    for _number in range(60):
        make_prompt(project=project)
    assert n_queries() == few
    assert len(client.get(prompts_url, {"page": "2"}).context["prompts"]) == 11


# --- Pairs ---------------------------------------------------------------------------------
@pytest.fixture
def pairs_url(client, project):
    client.force_login(make_user("rita", project=project, role=Role.REVIEWER))
    return reverse("pairs", args=[project.slug])


def test_pairs_show_both_answers_and_why_a_rule_rejected_one(
    client, project, pairs_url
):
    pair = make_pair(project=project, state="rejected")
    pair.verdicts.create(rule="cut_off", result="reject", reason="chosen ends at 256")
    pair.verdicts.create(rule="similarity", result="pass")
    text = html(client.get(pairs_url))
    assert pair.chosen.text in text and pair.rejected.text in text
    assert "An answer is cut off" in text and "chosen ends at 256" in text
    assert "too similar" not in text


def test_pairs_are_filtered_by_state(client, project, pairs_url):
    accepted = make_pair(project=project)
    rejected = make_pair(project=project, state="rejected")
    shown = client.get(pairs_url, {"state": "rejected"}).context["pairs"].object_list
    assert list(shown) == [rejected]
    shown = client.get(pairs_url, {"state": "nonsense"}).context["pairs"].object_list
    assert set(shown) == {accepted, rejected}


def test_superseded_pairs_are_not_shown(client, project, pairs_url):
    make_pair(project=project, superseded_at=timezone.now())
    assert not client.get(pairs_url).context["pairs"].object_list


def test_pairs_of_a_rule_are_found_from_its_objections(project):
    """Most rules have few: SQLite asked each pair of the project for them."""
    rejected = make_pair(project=project, state="rejected")
    rejected.verdicts.create(rule="cut_off", result="reject")
    make_pair(project=project).verdicts.create(rule="cut_off", result="pass")
    found = filtered(project, "", "cut_off")
    assert list(found) == [rejected]
    assert "CORRELATED" not in found.explain()


def test_objections_are_counted_without_a_look_at_the_decisions(
    project, django_assert_num_queries
):
    pair = make_pair(project=project, state="rejected")
    pair.verdicts.create(rule="cut_off", result="reject")
    gone = make_pair(project=project, state="rejected", superseded_at=timezone.now())
    gone.verdicts.create(rule="cut_off", result="reject")
    make_pair().verdicts.create(rule="cut_off", result="reject")
    with django_assert_num_queries(1) as asked:
        counts = queries.rule_counts(project)
    assert {rule: n["reject"] for rule, n in counts.items()} == {"cut_off": 1}
    assert "annotation_decision" not in asked[0]["sql"]


def test_queries_of_the_pairs_page_do_not_grow_with_the_pairs(
    client, project, pairs_url, django_assert_max_num_queries
):
    def n_queries() -> int:
        with django_assert_max_num_queries(20) as counted:
            client.get(pairs_url)
        return len(counted)

    make_pair(project=project).verdicts.create(rule="empty", result="pass")
    few = n_queries()
    for _number in range(8):
        make_pair(project=project).verdicts.create(rule="empty", result="pass")
    assert n_queries() == few


@pytest.mark.parametrize(
    ("format", "key"), [("trl", "chosen"), ("openai", "preferred_output")]
)
def test_the_export_streams_the_sound_pairs_alone(
    client, project, pairs_url, format, key
):
    pair = make_pair(project=project)
    make_pair(project=project, state="rejected")
    make_imported(make_prompt(project=project, is_held_out=True))
    url = reverse("export_pairs", args=[project.slug])
    response = client.get(url, {"format": format})
    lines = b"".join(response.streaming_content).decode().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])[key][-1]["content"] == pair.chosen.text
    assert f'{project.slug}-pairs-{format}.jsonl"' in response["Content-Disposition"]


def test_an_unknown_export_format_is_422_and_names_the_known_ones(
    client, project, pairs_url
):
    response = client.get(
        reverse("export_pairs", args=[project.slug]), {"format": "xls"}
    )
    assert response.status_code == 422
    assert "openai" in html(response)


# --- History -----------------------------------------------------------------------------------
@pytest.fixture
def history_url(client, project, annotator):
    client.force_login(annotator)
    return reverse("history", args=[project.slug])


def test_history_shows_ones_own_judgments_with_undo(
    client, project, annotator, history_url
):
    mine = make_judgment(project=project, annotator=annotator, comment="said why")
    other = make_judgment(project=project)
    text = html(client.get(history_url))
    assert mine.lease.first.text in text and "said why" in text
    assert reverse("undo", args=[mine.pk]) in text
    assert other.lease.first.text not in text


def test_history_shows_strength_criteria_and_an_edit_as_a_word_diff(
    client, project, annotator, history_url
):
    lease = make_lease(project=project, annotator=annotator)
    better = lease.first
    edited = make_completion(
        f"{better.text} And kinder.",
        prompt=better.prompt,
        source="edited",
        edited_from=better,
    )
    make_judgment(
        lease=lease,
        strength=3,
        criteria={"helpful": better.pk, "harmless": None},
        edited=edited,
    )
    text = html(client.get(history_url))
    assert f"<span>{better.text}</span><ins> And kinder.</ins>" in text
    assert "much better" in text
    assert "helpful: A" in text and "harmless: Tie" in text


def test_history_offers_no_undo_for_what_has_trained_or_is_undone(
    client, project, annotator, history_url
):
    pair = make_pair(project=project, annotator=annotator, frozen_at=timezone.now())
    frozen = pair.decision.comparison.judgments.get()
    undone = make_judgment(
        project=project, annotator=annotator, undone_at=timezone.now()
    )
    text = html(client.get(history_url))
    for judgment in (frozen, undone):
        assert reverse("undo", args=[judgment.pk]) not in text
    assert "trained on" in text and "undone" in text


def test_history_never_tells_which_policy_answered(
    client, project, annotator, history_url
):
    make_judgment(project=project, annotator=annotator)
    assert project.channel.serving.name not in html(client.get(history_url))


def test_queries_of_history_do_not_grow_and_it_has_pages(
    client, project, annotator, history_url, django_assert_max_num_queries
):
    def n_queries() -> int:
        with django_assert_max_num_queries(20) as counted:
            client.get(history_url)
        return len(counted)

    make_judgment(project=project, annotator=annotator)
    few = n_queries()
    for _number in range(25):
        make_judgment(comparison=make_comparison(project=project), annotator=annotator)
    assert n_queries() == few
    assert Judgment.objects.count() == 26
    assert len(client.get(history_url, {"page": "2"}).context["judgments"]) == 1


# --- Settings ----------------------------------------------------------------------------------
@pytest.fixture
def settings_url(client, project, manager):
    client.force_login(manager)
    return reverse("project_settings", args=[project.slug])


def filled_in(project, **changes) -> dict:
    """What a browser sends for the form as it is shown, with some fields changed."""
    form = SettingsForm(project)
    data = {name: form[name].value() for name in form.fields}
    told = {
        f"initial-{name}": "" if value is None else str(value)
        for name, value in data.items()
    }
    data = {name: value for name, value in data.items() if value not in (None, False)}
    return {
        **data,
        **told,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }


def test_saving_the_form_as_it_is_changes_no_setting(client, project, settings_url):
    before = project_settings.of(project)
    response = client.post(settings_url, filled_in(project))
    assert response.status_code == 302, response.context["form"].errors
    project.refresh_from_db()
    assert project_settings.of(project) == before


def test_what_another_saved_meanwhile_stays(client, project, settings_url):
    mine = filled_in(project, stock="9", ask_strength=True)
    theirs = filled_in(project, guidelines="Be brief.", criteria="helpful", quota="2")
    assert client.post(settings_url, theirs).status_code == 302
    assert client.post(settings_url, mine).status_code == 302
    project.refresh_from_db()
    own = project_settings.of(project)
    assert project.guidelines == "Be brief."
    assert (own.criteria, own.quota) == (["helpful"], 2)
    assert (own.stock, own.ask_strength) == (9, True)


def test_the_page_tells_each_value_twice_so_that_a_change_shows(client, settings_url):
    shown = html(client.get(settings_url))
    assert 'name="initial-stock" value="3"' in shown
    assert 'name="initial-guidelines"' in shown


def test_settings_are_saved_each_in_its_place(client, project, settings_url):
    data = filled_in(
        project,
        name="New name",
        sampling__temperature="0.7",
        ask_reasons="correct\r\n\r\n polite ",
        criteria="helpful\r\nharmless",
        round__config__beta="0.2",
        round__config__lora__r="8",
    )
    response = client.post(settings_url, data)
    assert response.status_code == 302, response.context["form"].errors
    project.refresh_from_db()
    own = project_settings.of(project)
    assert project.name == "New name"
    assert own.sampling["temperature"] == 0.7
    assert own.ask_reasons == ["correct", "polite"]
    assert own.criteria == ["helpful", "harmless"]
    assert own.round["config"] == {"beta": 0.2, "lora": {"r": 8}}


def test_an_emptied_field_falls_back_to_its_default(client, project, settings_url):
    project.settings = {"stock": 3, "round": {"config": {"beta": 0.3, "seed": 7}}}
    project.save()
    data = filled_in(project, stock="", round__config__beta="")
    client.post(settings_url, data)
    project.refresh_from_db()
    own = project_settings.of(project)
    assert own.stock == project_settings.ProjectSettings().stock
    assert own.round["config"].get("beta") is None
    assert own.round["config"]["seed"] == 7, "what the form does not show is kept"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling__temperature", "-1"),
        ("sampling__temperature", "hot"),
        ("sampling__top_p", "0"),
        ("quota", "0"),
        ("held_out_share", "nan"),
        ("name", ""),
    ],
)
def test_a_wrong_setting_is_422_named_at_its_field_and_nothing_is_saved(
    client, project, settings_url, field, value
):
    response = client.post(
        settings_url, filled_in(project, stock="7", **{field: value})
    )
    assert response.status_code == 422
    assert list(response.context["form"].errors) == [field.replace("__", ".")]
    project.refresh_from_db()
    assert project_settings.of(project).stock == 3


def test_all_that_is_wrong_is_told_at_once_and_nothing_typed_is_lost(
    client, project, settings_url
):
    """What is no number, what is out of its range and what is too long alike."""
    wrong = {
        **{"name": "", "guidelines": "x" * 100_001, "stock": "twelve"},
        **{"quota": "99", "sampling.temperature": "0", "sampling.top_p": "7"},
        **{"criteria": "helpful\nhelpful", "rules.similarity.max_ratio": "1.5"},
    }
    shown = SettingsForm(project).fields
    wrong = {name: value for name, value in wrong.items() if name in shown}
    sent = filled_in(project, lease_minutes="7", **wrong)
    response = client.post(settings_url, sent)
    form = response.context["form"]
    assert response.status_code == 422
    assert set(form.errors) == set(wrong)
    assert {name: form[name].value() for name in wrong} == wrong
    assert form["lease_minutes"].value() == "7"
    assert "“Judgments for each pair” must be" in form.errors["quota"][0]


def test_an_error_names_field_and_line_as_the_page_has_them(
    client, project, settings_url
):
    """Two reasons too long were the same sentence twice; which of twenty, none said."""
    long = "x" * 61
    sent = filled_in(
        project, ask_reasons=f"{long}\nshort\n{long}", guidelines="x" * 100_001
    )
    errors = client.post(settings_url, sent).context["form"].errors
    assert errors["ask_reasons"] == [
        "“Reasons to tick 1” must be text of at most 60 characters.",
        "“Reasons to tick 3” must be text of at most 60 characters.",
    ]
    assert errors["guidelines"][0].startswith("“Guidelines” is 100001 characters")


def test_a_turn_that_only_calls_a_tool_and_a_title_of_parts_are_told(client, project):
    """As pairs of other tools bring them: content null, and content in parts."""
    call = {"name": "weather", "arguments": '{"city": "北京"}'}
    prompt = make_prompt(
        project=project,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Is it cold?"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": call}]},
            {"role": "tool", "content": "3 degrees"},
        ],
    )
    assert str(prompt) == "Is it cold?"
    client.force_login(make_user(project=project, role=Role.REVIEWER))
    page = html(client.get(reverse("prompt", args=[project.slug, prompt.pk])))
    assert "weather" in page and "北京" in page and "3 degrees" in page

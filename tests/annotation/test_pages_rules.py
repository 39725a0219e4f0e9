"""The pages of the rules and of one pair."""

import pytest
from django.urls import reverse

from annotation import project_settings
from annotation.checking import check_waiting
from annotation.models import PreferencePair, Role
from annotation.reviewing import let_through, repair
from annotation.settings_form import RulesForm
from tests.annotation.pages import HTMX, html
from tests.factories import (
    make_pair,
    make_project,
    make_prompt,
    make_unchecked,
    make_user,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]

GOOD = "Water boils at a hundred degrees at sea level, lower on a mountain."
OTHER = "It depends: pressure falls with height and the boiling point with it."


def checked(project, chosen=GOOD, rejected=OTHER, question=""):
    prompt = make_prompt(question, project=project)
    pair = make_unchecked(prompt, chosen, rejected)
    check_waiting()
    pair.refresh_from_db()
    return pair


def filled_in(project, **changes) -> dict:
    """What a browser sends for the form as it is shown, with some fields changed."""
    form = RulesForm(project)
    data = {name: form[name].value() for name in form.fields}
    told = {
        f"initial-{name}": "" if value is None else str(value)
        for name, value in data.items()
    }
    data |= {name.replace("__", "."): value for name, value in changes.items()}
    data = {name: value for name, value in data.items() if value not in (None, False)}
    return data | told


# --- Rules ---------------------------------------------------------------------------
@pytest.fixture
def rules_url(client, project, manager):
    client.force_login(manager)
    return reverse("rules", args=[project.slug])


@pytest.fixture
def preview_url(project, rules_url):
    return reverse("preview_rules", args=[project.slug])


def test_saving_the_rules_as_they_are_changes_nothing(client, project, rules_url):
    before = project_settings.of(project)
    pair = checked(project)
    response = client.post(rules_url, filled_in(project))
    assert response.status_code == 302, response.context["form"].errors
    project.refresh_from_db()
    assert project_settings.of(project) == before
    pair.refresh_from_db()
    assert pair.state == "accepted"


def test_rules_are_saved_and_the_pairs_asked_again(client, project, rules_url):
    project.settings = {"quota": 3, "ask_reasons": ["clear"]}
    project.save()
    pair = checked(project)
    data = filled_in(
        project,
        rules__similarity__max_ratio="0.8",
        rules__identity__words="Nova\r\n\r\n 小助手 ",
        rules__refusal__side="either",
        rules__identical__on=False,
        rules__personal_data__phones="on",
        accept_unchecked=False,
    )
    response = client.post(rules_url, data, follow=True)
    assert "being checked again" in html(response)
    project.refresh_from_db()
    own = project_settings.of(project)
    assert own.rules["similarity"] == {"on": True, "max_ratio": 0.8}
    assert own.rules["identical"] == {"on": False}
    assert own.rules["identity"] == {"on": True, "words": ["Nova", "小助手"]}
    assert own.rules["refusal"] == {"on": False, "side": "either"}
    assert own.rules["personal_data"]["phones"] is True
    assert own.accept_unchecked is False
    assert (own.quota, own.ask_reasons) == (3, ["clear"]), "the others stay"
    pair.refresh_from_db()
    assert (pair.state, pair.is_due) == ("accepted", True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rules__similarity__max_ratio", "2"),
        ("rules__similarity__max_ratio", "nan"),
        ("rules__near_duplicate__min_likeness", "0.5"),
        ("rules__repetition__max_run", "1"),
        ("rules__refusal__side", "both"),
        ("rules__identity__words", "x" * 81),
        ("rules__identity__words", "\n".join(map(str, range(201)))),
        ("rules__identity__words", "a\na"),
    ],
)
def test_a_wrong_rule_is_422_named_at_its_field_and_nothing_is_saved(
    client, project, rules_url, preview_url, field, value
):
    for url in (rules_url, preview_url):
        response = client.post(url, filled_in(project, **{field: value}))
        assert response.status_code == 422
        assert list(response.context["form"].errors) == [field.replace("__", ".")]
    response = client.post(
        preview_url, filled_in(project, **{field: value}), headers=HTMX
    )
    assert response.status_code == 422
    assert "need another look" in html(response) and "<html" not in html(response)
    project.refresh_from_db()
    assert "rules" not in project.settings


def test_a_number_out_of_its_range_is_told_the_range_written_out(
    client, project, preview_url
):
    data = filled_in(project, rules__max_length__max_tokens="9999999")
    assert "from 1 to 1000000." in html(client.post(preview_url, data, headers=HTMX))
    data = filled_in(project, rules__similarity__max_ratio="2")
    assert "from 0 to 1." in html(client.post(preview_url, data, headers=HTMX))


def test_the_preview_says_what_it_cannot_know(client, project, preview_url):
    pair = checked(project)
    pair.verdicts.filter(rule="max_length").update(
        result="could_not_check", reason="the tokens could not be counted"
    )
    plain = html(client.post(preview_url, filled_in(project), headers=HTMX))
    assert "The tokens of 1 pair are not counted yet" in plain
    assert "Of what is known now" in plain and "Near duplicates are" not in plain
    data = filled_in(project, rules__near_duplicate__on="on")
    assert "Near duplicates are foretold" in html(
        client.post(preview_url, data, headers=HTMX)
    )


def test_the_preview_names_the_pairs_that_would_be_lost(client, project, preview_url):
    pair = checked(project, question="Why does water boil early?")
    data = filled_in(project, rules__chosen_width__min_columns="100")
    part = html(client.post(preview_url, data, headers=HTMX))
    assert part.lstrip().startswith('<section id="preview"')
    whole = html(client.post(preview_url, data))
    for text in (part, whole):
        assert "Why does water boil early?" in text
        assert reverse("pair", args=[project.slug, pair.pk]) in text
        assert "67 columns wide, less than 100" in text
    assert 'value="100"' in whole, "without JavaScript what was typed stays"
    project.refresh_from_db()
    assert "rules" not in project.settings


def test_a_broken_rule_is_said_with_its_number_to_managers_and_reviewers(
    client, project, rules_url
):
    pair = checked(project)
    for url in (rules_url, reverse("pairs", args=[project.slug])):
        assert "itself failed" not in html(client.get(url))
        verdict = pair.verdicts.get(rule="identity")
        verdict.result, verdict.reason = "could_not_check", "the rule failed: Odd: x"
        verdict.save()
        text = html(client.get(url))
        assert "itself failed on 1 pair" in text and "?rule=identity" in text
        verdict.result = "pass"
        verdict.save()


def test_queries_of_the_rules_page_do_not_grow(
    client, project, rules_url, preview_url, django_assert_max_num_queries
):
    def queries() -> int:
        data = filled_in(project, rules__chosen_width__min_columns="100")
        with django_assert_max_num_queries(25) as counted:
            client.get(rules_url)
            client.post(preview_url, data, headers=HTMX)
        return len(counted)

    checked(project), checked(project, "Short.")
    few = queries()
    for _ in range(5):
        checked(project), checked(project, "Short.")
    assert queries() == few


def test_the_settings_page_leads_to_the_rules(client, project, rules_url):
    text = html(client.get(reverse("project_settings", args=[project.slug])))
    assert rules_url in text and "rules.similarity" not in text


# --- One pair ------------------------------------------------------------------------------
@pytest.fixture
def rita(client, project):
    user = make_user("rita", project=project, role=Role.REVIEWER)
    client.force_login(user)
    return user


def at(name, project, pair):
    return reverse(name, args=[project.slug, pair.pk])


def test_a_pair_shows_its_answers_and_every_rules_verdict(client, project, rita):
    pair = checked(project, "Too short.", question="Why?")
    text = html(client.get(at("pair", project, pair)))
    for shown in ("Why?", "Too short.", OTHER, "10 columns wide, less than 50"):
        assert shown in text
    assert "10 rules passed it" in text and "At least this wide: 50" in text
    assert "Let it through" in text and "Repair by an edit" in text


def test_letting_through_and_taking_back_on_the_page(client, project, rita):
    pair = checked(project, "Too short.")
    url = at("let_through", project, pair)
    response = client.post(url, {"note": " "})
    assert response.status_code == 422
    assert response.context["let_through_form"].errors["note"]

    response = client.post(f"{url}?state=rejected", {"note": "As asked."}, follow=True)
    assert response.redirect_chain[-1][0].endswith("?state=rejected")
    text = html(response)
    assert "rita on" in text and "As asked." in text and "Take it back" in text
    pair.refresh_from_db()
    assert pair.state == "accepted"

    text = html(client.post(at("take_back", project, pair), follow=True))
    assert "ended by rita" in text
    pair.refresh_from_db()
    assert pair.state == "rejected"
    assert client.post(at("take_back", project, pair)).status_code == 409


def test_repairing_on_the_page(client, project, rita):
    pair = checked(project, "Too short.")
    url = at("repair", project, pair)
    response = client.post(url, {"chosen": " ", "rejected": OTHER})
    assert response.status_code == 422
    assert response.context["repair_form"].errors["chosen"]

    data = {"chosen": GOOD, "rejected": OTHER, "note": "It was too short."}
    response = client.post(url, data, follow=True)
    made = PreferencePair.objects.get(repaired_from=pair)
    assert response.redirect_chain[-1][0] == at("pair", project, made)
    text = html(response)
    assert "looks again by itself" in text and "hx-get" in text
    assert "It was too short." in text
    assert "looks again" not in html(client.get(at("pair", project, pair)))
    check_waiting()
    text = html(client.get(at("pair", project, made)))
    assert "accepted" in text and "looks again" not in text
    old = html(client.get(at("pair", project, pair)))
    assert "rita repaired this pair." in old and at("pair", project, made) in old


def test_what_was_typed_stays_when_somebody_else_was_first(client, project, rita):
    pair = checked(project, "Too short.")
    repair(pair, rita, chosen=GOOD, rejected=OTHER)
    data = {"chosen": "My long and careful version.", "rejected": OTHER}
    response = client.post(at("repair", project, pair), data)
    assert response.status_code == 409
    assert "My long and careful version." in html(response)
    assert "replaced meanwhile" in html(response)


def test_a_frozen_pair_offers_nothing(client, project, rita):
    pair = make_pair(project=project, frozen_at="2026-11-01T00:00Z")
    text = html(client.get(at("pair", project, pair)))
    assert "never changes any more" in text
    assert "Repair by an edit" not in text and "Let it through" not in text


def test_a_pair_of_another_project_is_not_there(client, project, rita):
    other = make_pair(project=make_project())
    assert client.get(at("pair", project, other)).status_code == 404
    assert client.post(at("repair", project, other)).status_code == 404
    huge = reverse("pair", args=[project.slug, 10**30])
    assert client.get(huge).status_code == 404


def test_the_list_is_filtered_by_rule_and_led_through_pair_by_pair(
    client, project, rita
):
    short = [checked(project, "Too short.") for _ in range(2)]
    cut = checked(project, rejected="No.")
    sound = checked(project)
    let_through(short[0], rita, "fine")
    url = reverse("pairs", args=[project.slug])

    def listed(**query):
        return list(client.get(url, query).context["pairs"].object_list)

    assert listed() == [sound, cut, short[1], short[0]]
    assert listed(rule="chosen_width") == [short[1], short[0]]
    assert listed(rule="chosen_width", state="rejected") == [short[1]]
    assert listed(rule="nonsense") == [sound, cut, short[1], short[0]]
    here = f"{at('pair', project, short[1])}?rule=chosen_width"
    text = html(client.get(here))
    assert f"{at('pair', project, short[0])}?rule=chosen_width" in text


def test_a_pairs_page_costs_the_same_however_many_pairs(
    client, project, rita, django_assert_max_num_queries
):
    pair = checked(project, "Too short.")
    let_through(pair, rita, "fine")

    def queries() -> int:
        with django_assert_max_num_queries(16) as counted:
            client.get(at("pair", project, pair))
        return len(counted)

    few = queries()
    for _ in range(5):
        checked(project, "Too short.")
    assert queries() == few

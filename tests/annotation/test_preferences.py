"""Preferences: keys that don't clash, kept for one person, defaults otherwise."""

import re
from html import unescape
from urllib.parse import parse_qsl

import pytest
from django.urls import reverse

from annotation import keys, preferences
from annotation.models import Preferences

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]
URL = "/preferences/"


def filled_in(**changes):
    """What a browser sends for the page as it is shown, with some fields changed."""
    data = {f"key_{act}": key for act, key in keys.defaults().items()}
    return data | {"beat": "120", "break_minutes": "50", "text_size": ""} | changes


def test_no_two_acts_share_a_key_by_default():
    assert keys.clashes(keys.defaults()) == {}
    assert all(keys.is_key(key) for key in keys.defaults().values())


def test_only_what_differs_is_kept_and_the_rest_follows_the_defaults(
    signed_in, annotator
):
    data = filled_in(key_skip="Y", key_reason_7="", beat="350")
    response = signed_in.post(URL, data)
    assert response.status_code == 302, response.context["form"].errors
    own = Preferences.objects.get()
    assert (own.user, own.beat) == (annotator, 350)
    assert own.keys == {"skip": "y", "reason_7": ""}
    assert keys.keys_of(own.keys)["undo"] == "u"


def test_a_clash_is_422_and_named_at_both_keys(signed_in):
    response = signed_in.post(URL, filled_in(key_skip="u"))
    assert response.status_code == 422
    assert set(response.context["form"].errors) == {"key_skip", "key_undo"}
    assert not Preferences.objects.exists()


@pytest.mark.parametrize("key", ["ab", " y", "\t", "\x08", "\u200b"])
def test_what_is_no_single_printing_key_is_refused(signed_in, key):
    response = signed_in.post(URL, filled_in(key_skip=key))
    if response.status_code == 302:  # stripped to one letter, or to none
        assert Preferences.objects.get().keys in ({"skip": "y"}, {"skip": ""})
    else:
        assert "key_skip" in response.context["form"].errors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beat", "5000"),
        ("break_minutes", "-1"),
        ("break_minutes", ""),
        ("text_size", "9"),
    ],
)
def test_a_wrong_pace_is_422_and_named(signed_in, field, value):
    response = signed_in.post(URL, filled_in(**{field: value}))
    assert response.status_code == 422
    assert list(response.context["form"].errors) == [field]


def test_reset_brings_the_defaults_back(signed_in, annotator):
    signed_in.post(URL, filled_in(key_skip="y"))
    signed_in.post(URL, {"reset": "1"})
    assert preferences.of(annotator).keys == {}


def test_nobody_sees_or_changes_anothers(signed_in, other_annotator):
    preferences.save(other_annotator, keys.defaults() | {"skip": "y"})
    assert 'value="y"' not in signed_in.get(URL).content.decode()
    signed_in.post(URL, filled_in())
    assert preferences.of(other_annotator).keys == {"skip": "y"}


def test_the_compare_page_comes_with_ones_own_keys(signed_in, project, annotator):
    preferences.save(annotator, keys.defaults() | {"help": "h", "guidelines": ""})
    text = signed_in.get(reverse("compare", args=[project.slug])).content.decode()
    assert 'data-act="help" data-key="h"' in text
    (told,) = re.findall(r'data-keys="([^"]*)"', text)
    assert dict(parse_qsl(unescape(told)))["help"] == "h"

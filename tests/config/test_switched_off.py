"""What docs/operators.md promises of an account whose *active* is switched off."""

import pytest
from django.test import Client
from django.urls import reverse
from knox.models import AuthToken

from tests.factories import make_comparison, make_user

pytestmark = pytest.mark.django_db


def test_sessions_and_tokens_of_an_account_end_with_it_and_tokens_by_nothing_else():
    project = make_comparison().project
    ada, browser, program = make_user("ada", project=project), Client(), Client()
    browser.force_login(ada)
    program.defaults["HTTP_AUTHORIZATION"] = (
        f"Bearer {AuthToken.objects.create(ada)[1]}"
    )
    leases = reverse("api_leases", args=[project.slug])
    ada.set_password("another long password")
    ada.save()
    assert browser.get(reverse("home")).status_code == 302  # by the new password
    assert program.post(leases).status_code == 201
    browser.force_login(ada)
    ada.is_active = False
    ada.save()
    assert browser.get(reverse("home")).status_code == 302
    assert program.post(leases).status_code == 401

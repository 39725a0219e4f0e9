import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.test import APIClient

from tests.factories import make_user


def create_token(name, *options):
    out = io.StringIO()
    call_command("create_token", name, *options, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_it_prints_the_token_and_nothing_else_and_the_token_works():
    make_user("alice")
    printed = create_token("alice")
    token = printed.strip()
    assert printed == f"{token}\n" and " " not in token
    headers = {"Authorization": f"Bearer {token}"}
    assert APIClient().get("/api/v1/projects", headers=headers).status_code == 200


@pytest.mark.django_db
def test_only_a_digest_is_kept_and_tokens_do_not_end_each_other():
    make_user("alice")
    first, second = create_token("alice"), create_token("alice")
    assert first != second
    assert AuthToken.objects.filter(expiry=None).count() == 2
    for row in AuthToken.objects.all():
        assert row.digest not in (first.strip(), second.strip())


@pytest.mark.django_db
def test_a_token_of_so_many_days_ends_with_them(monkeypatch):
    make_user("alice")
    token = create_token("alice", "--days", "2").strip()
    headers = {"Authorization": f"Bearer {token}"}
    begun = timezone.now()
    for passed, status in (({"hours": 47}, 200), ({"hours": 49}, 401)):
        monkeypatch.setattr(timezone, "now", lambda at=begun + timedelta(**passed): at)
        answer = APIClient().get("/api/v1/projects", headers=headers)
        assert answer.status_code == status


@pytest.mark.django_db
@pytest.mark.parametrize("days", ["0", "-1", "1.5", "soon", "3651", "²"])
def test_days_that_are_none_are_said_so_and_make_no_token(days):
    make_user("alice")
    with pytest.raises(CommandError, match="give whole days from 1 to 3650"):
        create_token("alice", f"--days={days}")
    assert not AuthToken.objects.exists()


@pytest.mark.django_db
def test_an_unknown_or_inactive_user_is_said_so():
    make_user("gone", is_active=False)
    with pytest.raises(CommandError, match="no user “ghost”"):
        create_token("ghost")
    with pytest.raises(CommandError, match="no user"):
        create_token("\udcff")  # as Python hands on a byte that is no UTF-8
    with pytest.raises(CommandError, match="not active"):
        create_token("gone")

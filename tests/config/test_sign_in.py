"""Guessing passwords: ten for one name from one address, then ten minutes' wait."""

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.core.management import call_command
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from config.sign_in import client_address
from tests.factories import make_user

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]

RIGHT, WRONG = "a long password", "a wrong password"


@pytest.fixture(autouse=True)
def ada():
    user = make_user("ada")
    user.set_password(RIGHT)
    user.save()


def sign_in(password, username="ada", address="192.0.2.1", page="login", **headers):
    data = {"username": username, "password": password}
    return Client(REMOTE_ADDR=address, **headers).post(reverse(page), data)


def guess(times, **where):
    return [sign_in(WRONG, **where).status_code for _ in range(times)]


def test_after_ten_wrong_passwords_the_right_one_has_to_wait():
    assert guess(9) == [200] * 9
    answer = sign_in(WRONG)
    assert answer.status_code == 429
    assert "Too many wrong passwords" in answer.content.decode()
    assert "10 wrong passwords for “ada”" in answer.content.decode()
    assert sign_in(RIGHT).status_code == 429
    assert sign_in(RIGHT, page="admin:login").status_code == 429


def test_ten_minutes_later_it_is_let_in_though_it_was_tried_meanwhile():
    guess(10)
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=9))
    assert sign_in(RIGHT).status_code == 429
    ago = timezone.now() - AccessAttempt.objects.get().attempt_time
    assert ago > timedelta(minutes=9)  # trying meanwhile makes it no longer
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=11))
    assert sign_in(RIGHT).status_code == 302
    assert not AccessAttempt.objects.exists()


def test_nobody_locks_out_somebody_else_nor_somebody_signed_in():
    inside = Client(REMOTE_ADDR="192.0.2.1")
    inside.force_login(make_user("bob"))
    guess(10)
    guess(10, username="bob")
    assert sign_in(RIGHT, address="192.0.2.2").status_code == 302
    assert inside.get(reverse("home")).status_code == 200


def test_a_right_password_makes_up_for_nine_wrong_ones():
    guess(9)
    assert sign_in(RIGHT).status_code == 302
    assert guess(9) == [200] * 9


def test_an_administrator_lets_them_in_at_once(capsys):
    guess(10)
    call_command("axes_reset_username", "ada")
    assert sign_in(RIGHT).status_code == 302


def test_behind_a_proxy_the_address_is_what_the_proxy_saw(settings):
    def address(forwarded, remote="10.0.0.1"):
        request = RequestFactory().get(
            "/", REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR=forwarded
        )
        return client_address(request)

    assert address("203.0.113.9") == "10.0.0.1"  # no proxy: anybody can send it
    settings.HTTPS = True
    assert address("203.0.113.9") == "203.0.113.9"
    assert address("1.1.1.1, 203.0.113.9") == "203.0.113.9"
    assert address("2001:db8:0:7:1::9") == "2001:db8:0:7::"  # its network
    assert address("::ffff:203.0.113.9") == "203.0.113.9"
    assert address("203.0.113.9:4711") == "10.0.0.1"
    assert address("'; drop table") == "10.0.0.1"
    assert address("", remote="") is None


def test_an_address_for_each_guess_is_of_no_use_within_an_ipv6_network():
    answers = [guess(1, address=f"2001:db8:0:7::{n:x}")[0] for n in range(1, 11)]
    assert answers == [200] * 9 + [429]
    assert sign_in(RIGHT, address="2001:db8:0:7:ffff::1").status_code == 429
    assert sign_in(RIGHT, address="2001:db8:0:8::1").status_code == 302


def test_a_name_too_long_to_be_counted_is_as_wrong_as_any_other():
    for page in ("login", "admin:login"):
        assert guess(1, username="x" * 30_000, page=page) == [200]


def test_a_locked_out_browser_without_an_address_is_still_told(settings):
    """Gunicorn on a unix socket knows no address."""
    assert guess(10, address="")[-1] == 429

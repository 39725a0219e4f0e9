"""What every test may count on. Fixtures of one app live in that app's conftest."""

import pytest


@pytest.fixture(autouse=True)
def _plain_passwords(settings):
    """Hashing a password well costs a tenth of a second, in every test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

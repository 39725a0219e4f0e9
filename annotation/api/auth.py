"""API tokens: `Authorization: Bearer TOKEN`, kept as a digest (knox).

Leaves out making them, which `manage.py create_token` does.
"""

from hmac import compare_digest

from django.contrib.auth import get_user_model
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from knox.models import get_token_model
from knox.settings import CONSTANTS
from rest_framework.exceptions import AuthenticationFailed

from annotation import sql

_TOKEN = sql.Columns(get_token_model(), "t")
_USER = sql.Columns(get_user_model(), "u")
_FOUND = f"""
SELECT {_TOKEN.sql}, {_USER.sql} FROM {get_token_model()._meta.db_table} t
JOIN {get_user_model()._meta.db_table} u ON u.id = t.user_id WHERE t.token_key = %s"""


class BearerToken(TokenAuthentication):
    """Knox's, except that a token that is not text is refused, not a fault of ours,
    and that a call costs one query, not compiled anew."""

    def authenticate_credentials(self, token: bytes):
        try:
            given = token.decode()
            digest = hash_token(given)
        except ValueError:  # not UTF-8, or half a surrogate pair
            raise AuthenticationFailed(_("Invalid token.")) from None
        # The key is a token's beginning: several may share it.
        for row in sql.rows(_FOUND, given[: CONSTANTS.TOKEN_KEY_LENGTH]):
            found = _TOKEN.row(row[: len(_TOKEN)])
            has_expired = found.expiry is not None and found.expiry < timezone.now()
            if has_expired or not compare_digest(digest, found.digest):
                continue
            found.user = _USER.row(row[len(_TOKEN) :])
            return self.validate_user(found)
        raise AuthenticationFailed(_("Invalid token."))


class BearerScheme(KnoxTokenScheme):
    """How the schema tells of it."""

    target_class = "annotation.api.auth.BearerToken"
    name = "token"

"""API tokens: `Authorization: Bearer TOKEN`, kept as a digest (knox).

Leaves out making them, which `manage.py create_token` does.
"""

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme
from knox.auth import TokenAuthentication
from rest_framework.exceptions import AuthenticationFailed


class BearerToken(TokenAuthentication):
    """Knox's, except that a token that is not text is refused, not a fault of ours,
    and that a call costs one query."""

    def authenticate_credentials(self, token: bytes):
        try:
            return super().authenticate_credentials(token)
        except UnicodeDecodeError:
            raise AuthenticationFailed(_("Invalid token.")) from None

    def _cleanup_token(self, auth_token) -> bool:
        """Whether it has expired; Knox reads all of the user's tokens at each call."""
        return auth_token.expiry is not None and auth_token.expiry < timezone.now()


class BearerScheme(KnoxTokenScheme):
    """How the schema tells of it."""

    target_class = "annotation.api.auth.BearerToken"
    name = "token"

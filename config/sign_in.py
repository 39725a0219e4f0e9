"""What django-axes asks of us when it counts wrong passwords: whose they are."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """The address that a request comes from; None behind a unix socket without one.

    Behind the proxy that HTTPS=1 trusts, what that proxy saw: the last entry of
    X-Forwarded-For. Those before it are the client's own claims.
    """
    if settings.HTTPS:
        last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        try:
            return str(ipaddress.ip_address(last))
        except ValueError:
            pass  # no such header, or a port beside the address
    return request.META.get("REMOTE_ADDR") or None

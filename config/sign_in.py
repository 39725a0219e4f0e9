"""What django-axes asks of us when it counts wrong passwords: whose they are."""

import ipaddress
from typing import Any

from django.conf import settings
from django.http import HttpRequest

NAME_KEPT = 255
"""Characters in axes' column; a user's name has 150 at most."""


def username(request: HttpRequest, credentials: dict[str, Any] | None) -> str | None:
    """The name given, as much of it as can be counted: PostgreSQL refuses longer ones."""
    given = (credentials or request.POST).get("username")
    return given and given[:NAME_KEPT]


def client_address(request: HttpRequest) -> str | None:
    """The address that a request comes from; None behind a unix socket without one.

    Of an IPv6 address its network of 2⁶⁴, which is what one customer of a provider has:
    with an address for every ten passwords nobody would ever have to wait.

    Behind the proxy that HTTPS=1 trusts, what that proxy saw: the last entry of
    X-Forwarded-For. Those before it are the client's own claims.
    """
    if settings.HTTPS:
        last = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        try:
            return _counted(last)
        except ValueError:
            pass  # no such header, or a port beside the address
    remote = request.META.get("REMOTE_ADDR")
    return _counted(remote) if remote else None


def _counted(text: str) -> str:
    """Raises ValueError for what is no address."""
    address = ipaddress.ip_address(text)
    if not isinstance(address, ipaddress.IPv6Address):
        return text
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False).network_address)

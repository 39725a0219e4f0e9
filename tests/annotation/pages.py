"""What the tests of pages ask with, and what they read."""

import re

from django.urls import reverse

HTMX = {"HX-Request": "true"}


def html(response) -> str:
    return response.content.decode()


def compare_url(project) -> str:
    return reverse("compare", args=[project.slug])


UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TOKEN = re.compile(r'(csrfmiddlewaretoken" value="|X-CSRFToken": ")\w+')


def without_chance(text: str) -> str:
    """The page without what is random: the lease's ids and the CSRF token."""
    return TOKEN.sub(r"\1", UUID.sub("ID", text))

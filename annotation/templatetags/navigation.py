"""`{% project_nav %}`: the navigation of the project that the page is about."""

from typing import Any

from django import template

from annotation.access import at_least
from annotation.models import Role
from annotation.navigation import navigation

register = template.Library()


@register.inclusion_tag("annotation/_project_nav.html", takes_context=True)
def project_nav(context: template.Context) -> dict[str, Any]:
    """For pages with a project and the reader's role in it."""
    found = context["request"].resolver_match
    role = context["role"]
    drawn = navigation(context["project"], role, found.url_name if found else "")
    # Not even counted for annotators: it is looked up where it is shown.
    is_told = at_least(role, Role.REVIEWER)
    return {**drawn._asdict(), "in_review": context["in_review"] if is_told else ""}

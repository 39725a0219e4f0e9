"""Home: for each project, what its reader can do next."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from annotation import figures
from annotation.access import may_create, projects_for
from annotation.models import Role
from annotation.pages import page


@require_safe
@login_required
def home(request: HttpRequest) -> HttpResponse:
    rows = figures.rows_for(projects_for(request.user), request.user)
    for row in rows:
        row.role_here = Role.MANAGER if request.user.is_superuser else row.role_here
        row.role_label = Role(row.role_here).label
    context = {"rows": rows, "may_create": may_create(request.user)}
    return page(request, "annotation/home.html", context)

"""Members: who may do what in a project."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from annotation import annotators, figures, projects
from annotation.access import needs
from annotation.errors import MembersError
from annotation.forms import MemberForm
from annotation.models import Role
from annotation.pages import page


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.MANAGER)
def members(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        return _list(request, MemberForm())
    form = MemberForm(request.POST)
    if form.is_valid() and _change(request, form):
        return redirect("members", slug)
    return _list(request, form, status=422)


def _change(request: HttpRequest, form: MemberForm) -> bool:
    username = form.cleaned_data["username"]
    role, done = form.cleaned_data["role"], _("%(name)s is a member now.")
    if form.cleaned_data["remove"]:
        role, done = None, _("%(name)s is no longer a member.")
    try:
        projects.change_member(request.project, username, role)
    except MembersError as error:
        form.add_error("username" if error.field == username else None, error.message)
        return False
    messages.success(request, done % {"name": username})
    return True


def _list(request: HttpRequest, form: MemberForm, status: int = 200) -> HttpResponse:
    known = figures.of(request.project, "annotators")
    context = {
        "form": form,
        "figures": known,
        "members": annotators.members(request.project, known),
        "roles": Role.choices,
    }
    return page(request, "annotation/members.html", context, status=status)

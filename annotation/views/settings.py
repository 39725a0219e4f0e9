"""A project's settings as a form; every error stands at its field."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from annotation import projects
from annotation.access import needs
from annotation.errors import Refused
from annotation.models import Role
from annotation.pages import page
from annotation.settings_form import SettingsForm


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.MANAGER)
def project_settings(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method != "POST":
        return _show(request, SettingsForm(request.project))
    form = SettingsForm(request.project, request.POST)
    if form.is_valid():
        wanted = {"settings": form.cleaned_data["settings"]} | {
            name: form.cleaned_data[name]
            for name in ("name", "guidelines")
            if not form.is_left(name)
        }
        try:
            projects.update_project(request.project, **wanted)
        except Refused as error:
            field = getattr(error, "field", None)
            form.add_error(field if field in form.fields else None, error.message)
        else:
            messages.success(request, _("Saved."))
            return redirect("project_settings", slug)
    return _show(request, form, status=422)


def _show(request: HttpRequest, form: SettingsForm, status: int = 200) -> HttpResponse:
    return page(request, "annotation/settings.html", {"form": form}, status=status)

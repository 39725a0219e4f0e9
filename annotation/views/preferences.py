"""Preferences: the keys, pace and text size that one person wants on the compare page."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from annotation import preferences
from annotation.pages import page
from annotation.preferences_form import PreferencesForm


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest) -> HttpResponse:
    if request.method == "POST" and "reset" in request.POST:
        preferences.reset(request.user)
        messages.success(request, _("Everything is back to the defaults."))
        return redirect("preferences")
    own = preferences.of(request.user)
    form = PreferencesForm(own, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        preferences.save(request.user, form.keys(), **form.others())
        messages.success(request, _("Saved."))
        return redirect("preferences")
    status = 422 if form.errors else 200
    return page(request, "annotation/preferences.html", {"form": form}, status=status)

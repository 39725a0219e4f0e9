"""Flagged: pairs that somebody could not judge because something is wrong with them."""

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from annotation import flags
from annotation.access import needs
from annotation.errors import Refused
from annotation.models import Lease, Role
from annotation.pages import completion_html, message_turns, page

PAGE_SIZE = 20


@require_http_methods(["GET", "HEAD", "POST"])
@needs(Role.REVIEWER)
def flagged(request: HttpRequest, slug: str) -> HttpResponse:
    if request.method == "POST":
        return _withdraw(request, slug)
    flag = request.GET.get("flag", "")
    rows = flags.flagged(request.project, flag)
    shown = Paginator(flags.with_content(rows), PAGE_SIZE)
    leases = shown.get_page(request.GET.get("page"))
    for lease in leases:
        lease.turns = message_turns(lease.comparison.prompt.messages)
        lease.first_html = completion_html(lease.first)
        lease.second_html = completion_html(lease.second)
    counts = flags.counts(request.project)
    filters = [("", _("all"), sum(counts.values()))]
    filters += [(kind.value, kind.label, counts.get(kind, 0)) for kind in Lease.Flag]
    context = {"leases": leases, "flag": flag, "filters": filters}
    return page(request, "annotation/flagged.html", context)


def _withdraw(request: HttpRequest, slug: str) -> HttpResponse:
    key = request.POST.get("lease", "")
    if not key:
        messages.error(request, _("Say which pair is to be withdrawn."))
        return redirect("flagged", slug)
    try:
        flags.withdraw(request.project, key)
    except Refused as error:
        messages.error(request, error.message)
    else:
        messages.success(request, _("Withdrawn: nobody is offered this pair again."))
    return redirect("flagged", slug)

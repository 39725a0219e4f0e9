"""The page that shows the API's schema.

Swagger UI comes from an installed package and is started by a script file of ours, so
the page needs no inline code. Its icons are data: images, which this page alone allows.
"""

from csp.decorators import csp_update
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.views import View


@method_decorator(csp_update({"img-src": ["data:"]}), name="dispatch")
class Docs(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return render(request, "api_docs.html")

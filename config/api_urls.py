"""Addresses of the HTTP API: version 1, its schema and a page to read it on."""

from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView

from config.api_docs import Docs
from config.problems import api_not_found

urlpatterns = [
    path("v1/", include("annotation.api.urls")),
    path("v1/", include("training.api.urls")),
    # OpenAPI 3: YAML, or JSON where `Accept: application/vnd.oai.openapi+json` asks.
    path("schema", SpectacularAPIView.as_view(), name="schema"),
    path("docs", Docs.as_view(), name="api_docs"),
    # Last: a program that mistypes an address gets JSON, not a page.
    re_path(r"", api_not_found, name="api_not_found"),
]

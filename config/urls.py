"""Every address of the site; each app lists its own."""

from django.urls import path

urlpatterns: list = []

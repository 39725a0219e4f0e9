"""Addresses of the round and policy pages."""

urlpatterns: list = []

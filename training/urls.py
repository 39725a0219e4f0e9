"""Addresses of the round and policy pages."""

from django.urls import path

from training.views import policies, rounds

urlpatterns = [
    path("projects/<slug:slug>/rounds/", rounds.round_list, name="rounds"),
    path("rounds/<int:pk>/", rounds.round_page, name="round"),
    path("rounds/<int:pk>/status/", rounds.round_status, name="round_status"),
    path("rounds/<int:pk>/export/", rounds.export_round, name="export_round"),
    path("rounds/<int:pk>/cancel/", rounds.cancel_round, name="cancel_round"),
    path("rounds/<int:pk>/resume/", rounds.resume_round, name="resume_round"),
    path("projects/<slug:slug>/policies/", policies.policy_list, name="policies"),
    path(
        "projects/<slug:slug>/policies/base/deploy/",
        policies.deploy_base,
        name="deploy_base",
    ),
    path("projects/<slug:slug>/rollback/", policies.rollback, name="rollback"),
    path("policies/<slug:name>/deploy/", policies.deploy, name="deploy"),
]

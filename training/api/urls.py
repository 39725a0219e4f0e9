"""Addresses of the training calls, under /api/v1/."""

from django.urls import path

from training.api import metrics, policies, rounds

urlpatterns = [
    path("projects/<slug:slug>/rounds", rounds.Rounds.as_view(), name="api_rounds"),
    path("rounds/<int:pk>", rounds.Round.as_view(), name="api_round"),
    path("rounds/<int:pk>/metrics", metrics.RoundMetrics.as_view(), name="api_metrics"),
    path("rounds/<int:pk>/pairs", rounds.RoundPairs.as_view(), name="api_round_pairs"),
    path("rounds/<int:pk>/cancel", rounds.RoundCancel.as_view(), name="api_cancel"),
    path("rounds/<int:pk>/resume", rounds.RoundResume.as_view(), name="api_resume"),
    path(
        "projects/<slug:slug>/policies",
        policies.Policies.as_view(),
        name="api_policies",
    ),
    path(
        "projects/<slug:slug>/rollback",
        policies.Rollback.as_view(),
        name="api_rollback",
    ),
    path(
        "policies/<slug:name>/deploy",
        policies.PolicyDeploy.as_view(),
        name="api_deploy",
    ),
]

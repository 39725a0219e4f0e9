"""Addresses of the annotation calls, under /api/v1/."""

from django.urls import path

from annotation.api import (
    exports,
    flags,
    gold,
    judgments,
    leases,
    pair,
    pairs,
    projects,
    prompts,
    review,
    rules,
    stats,
)

urlpatterns = [
    path("projects", projects.ProjectList.as_view(), name="api_projects"),
    path("projects/<slug:slug>", projects.ProjectDetail.as_view(), name="api_project"),
    path(
        "projects/<slug:slug>/members",
        projects.Members.as_view(),
        name="api_members",
    ),
    path("projects/<slug:slug>/prompts", prompts.Prompts.as_view(), name="api_prompts"),
    path("projects/<slug:slug>/leases", leases.Leases.as_view(), name="api_leases"),
    path("leases/<uuid:key>", leases.LeaseDetail.as_view(), name="api_lease"),
    path(
        "leases/<uuid:key>/judgment",
        judgments.LeaseJudgment.as_view(),
        name="api_judgment",
    ),
    path(
        "judgments/<uuid:pk>/undo",
        judgments.JudgmentUndo.as_view(),
        name="api_undo",
    ),
    path("projects/<slug:slug>/pairs", pairs.Pairs.as_view(), name="api_pairs"),
    path(
        "projects/<slug:slug>/pairs/<int:pk>",
        pair.Pair.as_view(),
        name="api_pair",
    ),
    path(
        "projects/<slug:slug>/pairs/<int:pk>/let-through",
        pair.PairLetThrough.as_view(),
        name="api_let_through",
    ),
    path(
        "projects/<slug:slug>/pairs/<int:pk>/repair",
        pair.PairRepair.as_view(),
        name="api_repair",
    ),
    path("projects/<slug:slug>/flags", flags.Flags.as_view(), name="api_flags"),
    path(
        "projects/<slug:slug>/flags/<uuid:key>/withdraw",
        flags.FlagWithdraw.as_view(),
        name="api_withdraw",
    ),
    path(
        "projects/<slug:slug>/review",
        review.ReviewQueue.as_view(),
        name="api_review",
    ),
    path(
        "projects/<slug:slug>/review/<int:pk>",
        review.ReviewDecision.as_view(),
        name="api_settle",
    ),
    path(
        "projects/<slug:slug>/rules/preview",
        rules.RulesPreview.as_view(),
        name="api_rules_preview",
    ),
    path("projects/<slug:slug>/gold", gold.GoldItems.as_view(), name="api_gold"),
    path("gold/<int:pk>/retire", gold.GoldRetire.as_view(), name="api_retire_gold"),
    path(
        "projects/<slug:slug>/annotators/<str:username>/count",
        gold.LetCount.as_view(),
        name="api_let_count",
    ),
    path(
        "projects/<slug:slug>/judgments",
        exports.Judgments.as_view(),
        name="api_judgments",
    ),
    path("projects/<slug:slug>/dataset", exports.Dataset.as_view(), name="api_dataset"),
    path("projects/<slug:slug>/stats", stats.Stats.as_view(), name="api_stats"),
]

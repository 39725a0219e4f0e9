"""Addresses of the annotation pages."""

from django.urls import path

from annotation.views import (
    compare,
    differences,
    flags,
    gold,
    history,
    home,
    members,
    pair,
    pairs,
    preferences,
    projects,
    prompt,
    prompts,
    quality,
    review,
    rules,
)
from annotation.views import settings as project_settings

urlpatterns = [
    path("", home.home, name="home"),
    path("preferences/", preferences.edit, name="preferences"),
    path("projects/new/", projects.new_project, name="new_project"),
    path("projects/<slug:slug>/", projects.project, name="project"),
    path("projects/<slug:slug>/compare/", compare.compare, name="compare"),
    path("projects/<slug:slug>/last-ten/", compare.last_ten, name="last_ten"),
    path("leases/<uuid:key>/judge/", compare.judge, name="judge"),
    path(
        "leases/<uuid:key>/differences/",
        differences.differences,
        name="differences",
    ),
    path("leases/<uuid:key>/skip/", compare.skip, name="skip"),
    path("judgments/<uuid:pk>/undo/", compare.undo, name="undo"),
    path("projects/<slug:slug>/history/", history.history, name="history"),
    path("projects/<slug:slug>/prompts/", prompts.prompts, name="prompts"),
    path("projects/<slug:slug>/prompts/<int:pk>/", prompt.prompt, name="prompt"),
    path(
        "projects/<slug:slug>/settings/",
        project_settings.project_settings,
        name="project_settings",
    ),
    path("projects/<slug:slug>/members/", members.members, name="members"),
    path("projects/<slug:slug>/pairs/", pairs.pairs, name="pairs"),
    path("projects/<slug:slug>/review/", review.review, name="review"),
    path("projects/<slug:slug>/review/<int:pk>/settle/", review.settle, name="settle"),
    path(
        "projects/<slug:slug>/review/<int:pk>/undo/",
        review.undo,
        name="undo_settled",
    ),
    path("projects/<slug:slug>/pairs/<int:pk>/", pair.pair, name="pair"),
    path(
        "projects/<slug:slug>/pairs/<int:pk>/let-through/",
        pair.let_through,
        name="let_through",
    ),
    path(
        "projects/<slug:slug>/pairs/<int:pk>/take-back/",
        pair.take_back,
        name="take_back",
    ),
    path("projects/<slug:slug>/pairs/<int:pk>/repair/", pair.repair, name="repair"),
    path("projects/<slug:slug>/rules/", rules.rules, name="rules"),
    path(
        "projects/<slug:slug>/rules/preview/",
        rules.preview_rules,
        name="preview_rules",
    ),
    path("projects/<slug:slug>/flagged/", flags.flagged, name="flagged"),
    path("projects/<slug:slug>/quality/", quality.quality, name="quality"),
    path("projects/<slug:slug>/gold/", gold.gold_items, name="gold"),
    path("gold/<int:pk>/retire/", gold.retire_gold, name="retire_gold"),
    path("pairs/<int:pk>/gold/", gold.pair_as_gold, name="pair_as_gold"),
    path("judgments/<uuid:pk>/gold/", gold.judgment_as_gold, name="judgment_as_gold"),
    path(
        "projects/<slug:slug>/annotators/<str:username>/count/",
        gold.let_count,
        name="let_count",
    ),
    path("projects/<slug:slug>/pairs.jsonl", pairs.export_pairs, name="export_pairs"),
]

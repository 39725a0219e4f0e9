"""Addresses of the annotation pages."""

from django.urls import path

from annotation.views import (
    compare,
    differences,
    history,
    home,
    members,
    pairs,
    projects,
    prompts,
    quality,
)
from annotation.views import settings as project_settings

urlpatterns = [
    path("", home.home, name="home"),
    path("projects/new/", projects.new_project, name="new_project"),
    path("projects/<slug:slug>/", projects.project, name="project"),
    path("projects/<slug:slug>/compare/", compare.compare, name="compare"),
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
    path(
        "projects/<slug:slug>/settings/",
        project_settings.project_settings,
        name="project_settings",
    ),
    path("projects/<slug:slug>/members/", members.members, name="members"),
    path("projects/<slug:slug>/pairs/", pairs.pairs, name="pairs"),
    path("projects/<slug:slug>/quality/", quality.quality, name="quality"),
    path("projects/<slug:slug>/pairs.jsonl", pairs.export_pairs, name="export_pairs"),
]

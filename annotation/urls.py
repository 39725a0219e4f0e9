"""Addresses of the annotation pages."""

from django.urls import path

from annotation.views import (
    compare,
    exports,
    history,
    home,
    imports,
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
    path("projects/<slug:slug>/pairs.jsonl", exports.export_pairs, name="export_pairs"),
    path("projects/<slug:slug>/export/", exports.export, name="export"),
    path("projects/<slug:slug>/export/file/", exports.export_file, name="export_file"),
    path("projects/<slug:slug>/import/", imports.imports, name="imports"),
    path("imports/<int:pk>/", imports.import_job, name="import_job"),
    path("imports/<int:pk>/status/", imports.import_status, name="import_status"),
    path("imports/<int:pk>/start/", imports.start_import, name="start_import"),
    path("imports/<int:pk>/cancel/", imports.cancel_import, name="cancel_import"),
    path("imports/<int:pk>/bad-lines.csv", imports.import_faults, name="import_faults"),
]

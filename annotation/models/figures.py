"""The figures of a project that are too dear to be counted at every look."""

from django.db import models

from annotation.models.projects import Project


class ProjectFigures(models.Model):
    """What a worker counted last, and when; see annotation/figures.py."""

    project = models.OneToOneField(
        Project, models.CASCADE, primary_key=True, related_name="stored_figures"
    )
    values = models.JSONField(default=dict)
    """{part: its figures}, packed."""
    as_of = models.DateTimeField(null=True)
    """When counting them began; null until they were counted once."""
    seconds = models.FloatField(default=0)
    """How long that took."""
    asked_at = models.DateTimeField(null=True)
    """When somebody last wanted fresher ones."""
    started_at = models.DateTimeField(null=True)
    """A worker counts since then; null when none does."""

    class Meta:
        verbose_name_plural = "project figures"

    def __str__(self) -> str:
        return f"{self.project_id} as of {self.as_of}"

"""How far each annotator's verdicts were trusted, and from when on."""

from django.db import models
from django.db.models import Q

from annotation.models.projects import USER, Project


class Weighing(models.Model):
    """One fit of a project's judgments; the newest decides. Never changed afterwards."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="weighings")
    comparisons = models.PositiveIntegerField()
    judgments = models.PositiveIntegerField()
    """What it rests on: comparisons judged by two or more, and their judgments."""
    settled = models.PositiveIntegerField(default=0)
    """Of the comparisons, those whose truth a reviewer had said."""
    iterations = models.PositiveIntegerField()
    prior = models.JSONField()
    """[how common each true label is], in the order of quality.LABELS."""
    average = models.JSONField()
    """[[probability of each label said] of each true label], of all annotators together:
    what somebody whom the fit has not seen weighs."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            models.Index(fields=["project", "-id"], name="newest_weighing"),
        ]

    def __str__(self) -> str:
        return f"{self.project_id}: {self.judgments} judgments"


class AnnotatorWeight(models.Model):
    """One annotator's error rates in a weighing."""

    weighing = models.ForeignKey(Weighing, models.CASCADE, related_name="weights")
    annotator = models.ForeignKey(USER, models.PROTECT, related_name="weights")
    judgments = models.PositiveIntegerField()
    errors = models.JSONField()
    """[[probability of each label said] of each true label]."""
    accuracy = models.FloatField()
    """Probability of saying what is true of a comparison drawn at random."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["weighing", "annotator"], name="weighed_once"
            ),
            models.CheckConstraint(
                condition=Q(accuracy__gte=0, accuracy__lte=1), name="accuracy_is_share"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.annotator_id}: {self.accuracy:.2f}"

    @property
    def percent(self) -> int:
        return round(100 * self.accuracy)

"""Judgments, and what a comparison's judgments come to."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.comparisons import Comparison, Completion, Lease, Slot
from annotation.models.projects import USER, Project


class Verdict(models.TextChoices):
    """What was seen, not which answer it was."""

    FIRST = "first", _("First is better")
    SECOND = "second", _("Second is better")
    TIE = "tie", _("Equally good")
    BOTH_BAD = "both_bad", _("Both bad")


class Judgment(models.Model):
    """One annotator's act. Undoing keeps the row and sets `undone_at`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # No index of its own where another begins with the column: judging writes here.
    project = models.ForeignKey(
        Project, models.CASCADE, related_name="judgments", db_index=False
    )
    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="judgments")
    annotator = models.ForeignKey(USER, models.PROTECT, related_name="judgments")
    lease = models.OneToOneField(Lease, models.PROTECT, related_name="judgment")
    slot = models.ForeignKey(Slot, models.PROTECT, related_name="judgments")
    verdict = models.CharField(max_length=8, choices=Verdict)
    winner = models.ForeignKey(
        Completion, models.PROTECT, null=True, blank=True, related_name="won"
    )
    """The completion that won, not a side; null for tie and both bad."""
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    """1 slightly, 2 clearly, 3 much better; null where not asked."""
    reasons = models.JSONField(default=list, blank=True)
    comment = models.TextField(blank=True)
    edited = models.ForeignKey(
        Completion, models.PROTECT, null=True, blank=True, related_name="+"
    )
    body_sha256 = models.CharField(max_length=64)
    """Of what was submitted: the same again changes nothing, another body is refused."""
    seconds = models.FloatField()
    """From the lease to the judgment."""
    created_at = models.DateTimeField(auto_now_add=True)
    undone_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "annotator"],
                condition=Q(undone_at=None),
                name="one_standing_judgment",
            ),
            models.UniqueConstraint(
                fields=["slot"], condition=Q(undone_at=None), name="one_judgment_a_slot"
            ),
            models.CheckConstraint(
                condition=Q(verdict__in=["first", "second"], winner__isnull=False)
                | Q(verdict__in=["tie", "both_bad"], winner=None),
                name="verdict_names_its_winner",
            ),
            models.CheckConstraint(
                condition=Q(strength=None) | Q(strength__in=[1, 2, 3]),
                name="strength_1_to_3",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "annotator", "-created_at"], name="my_history"
            ),
            models.Index(fields=["project", "-created_at"], name="project_judgments"),
        ]

    def __str__(self) -> str:
        return f"{self.annotator}: {self.verdict}"


class Decision(models.Model):
    """What a comparison's judgments come to. A change supersedes it by a new row."""

    class Outcome(models.TextChoices):
        WINNER = "winner", _("one is better")
        TIE = "tie", _("equally good")
        BOTH_BAD = "both_bad", _("both bad")
        SPLIT = "split", _("annotators disagree")

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="decisions")
    outcome = models.CharField(max_length=8, choices=Outcome)
    winner = models.ForeignKey(
        Completion, models.PROTECT, null=True, blank=True, related_name="+"
    )
    method = models.CharField(max_length=20, default="majority")
    created_at = models.DateTimeField(auto_now_add=True)
    superseded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison"],
                condition=Q(superseded_at=None),
                name="one_standing_decision",
            ),
            models.CheckConstraint(
                condition=Q(outcome="winner", winner__isnull=False)
                | (~Q(outcome="winner") & Q(winner=None)),
                name="decision_names_its_winner",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.comparison_id}: {self.outcome}"

"""Judgments, and what a comparison's judgments come to."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.comparisons import Comparison, Completion, Lease, Slot
from annotation.models.projects import USER, Project
from annotation.models.weights import Weighing


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
    criteria = models.JSONField(default=dict, blank=True)
    """{criterion: id of the completion that is better by it, or null for a tie}."""
    edited = models.ForeignKey(
        Completion, models.PROTECT, null=True, blank=True, related_name="+"
    )
    body_sha256 = models.CharField(max_length=64)
    """Of what was submitted: the same again changes nothing, another body is refused."""
    seconds = models.FloatField()
    """From the lease to the judgment."""
    created_at = models.DateTimeField(auto_now_add=True)
    undone_at = models.DateTimeField(null=True, blank=True)
    waits_for_review = models.BooleanField(default=False, db_default=False)
    """Its annotator was below the floor on gold: it decides nothing until somebody
    decides the comparison or lets it count."""
    let_count_by = models.ForeignKey(
        USER, models.PROTECT, null=True, blank=True, related_name="+"
    )
    let_count_at = models.DateTimeField(null=True, blank=True)

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
            models.CheckConstraint(
                condition=Q(let_count_by=None, let_count_at=None)
                | Q(
                    let_count_by__isnull=False,
                    let_count_at__isnull=False,
                    waits_for_review=False,
                ),
                name="let_count_by_somebody",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "annotator", "-created_at"], name="my_history"
            ),
            models.Index(fields=["project", "-created_at"], name="project_judgments"),
            models.Index(
                fields=["project", "annotator"],
                # Those undone, too: what somebody is told of is as of the last full hour.
                condition=Q(waits_for_review=True),
                name="waiting_judgments",
            ),
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
        REVIEW = "review", _("left to a reviewer")

    class Method(models.TextChoices):
        MAJORITY = "majority", _("majority")
        WEIGHTED = "weighted", _("weighted")
        REVIEWER = "reviewer", _("reviewer")

    class Category(models.TextChoices):
        """Why annotators disagreed, as the reviewer sees it."""

        AMBIGUOUS = "ambiguous", _("ambiguous")
        GUIDELINE_GAP = "guideline_gap", _("guideline gap")
        ANNOTATOR_ERROR = "annotator_error", _("annotator error")
        EDGE_CASE = "edge_case", _("edge case")
        SUBJECTIVE = "subjective", _("matter of taste")

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="decisions")
    outcome = models.CharField(max_length=8, choices=Outcome)
    winner = models.ForeignKey(
        Completion, models.PROTECT, null=True, blank=True, related_name="+"
    )
    method = models.CharField(max_length=20, choices=Method, default=Method.MAJORITY)
    weighing = models.ForeignKey(
        Weighing,
        models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="decisions",
    )
    """The weights that a weighted decision rests on."""
    posterior = models.FloatField(null=True, blank=True)
    """Of a weighted decision: the probability of the likeliest outcome, given them."""
    decided_by = models.ForeignKey(
        USER,
        models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="decisions",
    )
    """The reviewer; null where judgments were counted or weighed."""
    note = models.TextField(blank=True)
    category = models.CharField(max_length=15, choices=Category, blank=True)
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
            models.CheckConstraint(
                condition=Q(
                    method="majority", decided_by=None, weighing=None, posterior=None
                )
                | Q(
                    method="weighted",
                    decided_by=None,
                    weighing__isnull=False,
                    # Of a null, neither bound would be false.
                    posterior__isnull=False,
                    posterior__gt=0,
                    posterior__lte=1,
                )
                | Q(
                    method="reviewer",
                    decided_by__isnull=False,
                    weighing=None,
                    posterior=None,
                ),
                name="decision_knows_its_method",
            ),
            # Reviewers say what a comparison is; they leave nothing to reviewers.
            models.CheckConstraint(
                condition=~Q(method="reviewer", outcome="review"),
                name="reviewers_decide",
            ),
        ]
        indexes = [
            # Serves the adjudication queue and its count, on every page of a reviewer.
            models.Index(
                fields=["outcome", "comparison"],
                condition=Q(superseded_at=None, winner=None),
                name="decisions_without_winner",
            ),
            # Serves a reviewer's last decision, to be undone.
            models.Index(
                fields=["decided_by", "-id"],
                condition=Q(decided_by__isnull=False),
                name="decisions_of_reviewers",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.comparison_id}: {self.outcome}"


class ReviewClaim(models.Model):
    """A reviewer is looking at this comparison, until then; others get the next.

    It only spares double work. That a comparison is settled once is for the lock on it
    and for `one_standing_decision`.
    """

    comparison = models.OneToOneField(
        Comparison, models.CASCADE, primary_key=True, related_name="review_claim"
    )
    reviewer = models.ForeignKey(USER, models.CASCADE, related_name="review_claims")
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.reviewer} on {self.comparison_id}"

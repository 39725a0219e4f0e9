"""Preference pairs and what each rule said of them."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from annotation.models.comparisons import Completion
from annotation.models.judgments import Decision
from annotation.models.projects import Project, Prompt


class PreferencePair(models.Model):
    """Chosen and rejected, derived from a decision (or imported); never changed."""

    class Kind(models.TextChoices):
        JUDGED = "judged", _("judged")
        EDITED = "edited", _("edited")
        IMPORTED = "imported", _("imported")

    class State(models.TextChoices):
        UNCHECKED = "unchecked", _("not checked yet")
        ACCEPTED = "accepted", _("accepted")
        REJECTED = "rejected", _("rejected by a rule")

    project = models.ForeignKey(Project, models.CASCADE, related_name="pairs")
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="pairs")
    decision = models.ForeignKey(
        Decision, models.PROTECT, null=True, blank=True, related_name="pairs"
    )
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.JUDGED)
    chosen = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    rejected = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    weight = models.FloatField(default=1.0)
    state = models.CharField(max_length=9, choices=State, default=State.UNCHECKED)
    extra = models.JSONField(default=dict, blank=True)
    """{"format", "kept"} of an imported row, by which export gives the row back."""
    content_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    """Of prompt and both answers of an imported pair: the same is imported once."""
    created_at = models.DateTimeField(auto_now_add=True)
    superseded_at = models.DateTimeField(null=True, blank=True)
    frozen_at = models.DateTimeField(null=True, blank=True)
    """Set when a round first takes it; from then on it and its decision never change."""

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(chosen=F("rejected")), name="pair_of_two"
            ),
            models.UniqueConstraint(
                fields=["decision", "kind"], name="one_pair_a_decision_and_kind"
            ),
            models.CheckConstraint(
                condition=Q(frozen_at=None) | Q(superseded_at=None, state="accepted"),
                name="frozen_pair_stands",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["unchecked", "accepted", "rejected"]),
                name="pair_state_known",
            ),
            models.CheckConstraint(condition=Q(weight__gt=0), name="pair_weighs"),
            models.UniqueConstraint(
                fields=["project", "content_sha256"],
                condition=~Q(content_sha256=""),
                name="imported_pair_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "id"],
                condition=Q(state="accepted", superseded_at=None),
                name="sound_pairs",
            ),
            models.Index(
                fields=["id"],
                condition=Q(state="unchecked", superseded_at=None),
                name="unchecked_pairs",
            ),
        ]

    def __str__(self) -> str:
        return f"pair {self.pk}"


class RuleVerdict(models.Model):
    """What one rule said of one pair, with the parameters it was asked with."""

    class Result(models.TextChoices):
        PASS = "pass", _("pass")
        REJECT = "reject", _("reject")
        COULD_NOT_CHECK = "could_not_check", _("could not check")

    pair = models.ForeignKey(PreferencePair, models.CASCADE, related_name="verdicts")
    rule = models.CharField(max_length=40)
    result = models.CharField(max_length=15, choices=Result)
    reason = models.CharField(max_length=300, blank=True)
    params = models.JSONField(default=dict, blank=True)
    checked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["pair", "rule"], name="rule_once_a_pair")
        ]

    def __str__(self) -> str:
        return f"{self.rule}: {self.result}"

"""Probes: comparisons that measure an annotator, and the known answers behind them."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from annotation.models.comparisons import Comparison, Completion
from annotation.models.judgments import Judgment
from annotation.models.projects import USER, Project, Prompt


class GoldItem(models.Model):
    """Two answers to a prompt and the verdict that is known to be right.

    Never edited: a better one is made anew and this one retired, so that every judgment
    on it was measured against what it says.
    """

    class Expected(models.TextChoices):
        WINNER = "winner", _("one is better")
        TIE = "tie", _("equally good")
        BOTH_BAD = "both_bad", _("both bad")

    project = models.ForeignKey(Project, models.CASCADE, related_name="gold_items")
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="+")
    a = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    """The better one, where one is."""
    b = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    expected = models.CharField(max_length=8, choices=Expected)
    winner = models.ForeignKey(
        Completion, models.PROTECT, null=True, blank=True, related_name="+"
    )
    explanation = models.TextField(blank=True)
    """Why it is so, for whoever looks after the gold."""
    source = models.ForeignKey(
        Comparison, models.SET_NULL, null=True, blank=True, related_name="gold_items"
    )
    """Where it was first judged; null for an import."""
    sha256 = models.CharField(max_length=64)
    """Of the prompt and both texts, whatever their order: the same is gold once."""
    author = models.ForeignKey(USER, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    retired_by = models.ForeignKey(
        USER, models.PROTECT, null=True, blank=True, related_name="+"
    )
    was_wrong = models.BooleanField(default=False)
    """Judgments on it count neither for nor against anybody."""

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=~Q(a=F("b")), name="gold_of_two"),
            models.CheckConstraint(
                condition=Q(expected="winner", winner__isnull=False, winner=F("a"))
                | Q(expected__in=["tie", "both_bad"], winner=None),
                name="gold_names_its_winner",
            ),
            models.CheckConstraint(
                condition=Q(retired_at=None, retired_by=None, was_wrong=False)
                | Q(retired_at__isnull=False, retired_by__isnull=False),
                name="gold_retired_by_somebody",
            ),
            models.UniqueConstraint(
                fields=["project", "sha256"],
                condition=Q(retired_at=None),
                name="gold_once",
            ),
        ]

    def __str__(self) -> str:
        return f"gold {self.pk}"


class Probe(models.Model):
    """A comparison made for one annotator alone, to measure them."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="probes")
    annotator = models.ForeignKey(USER, models.PROTECT, related_name="probes")
    comparison = models.OneToOneField(Comparison, models.CASCADE, related_name="probe")
    gold = models.ForeignKey(
        GoldItem, models.PROTECT, null=True, blank=True, related_name="probes"
    )
    repeats = models.OneToOneField(
        Judgment, models.PROTECT, null=True, blank=True, related_name="repeat"
    )
    """Their earlier judgment, whose pair comes again with sides swapped."""
    after = models.OneToOneField(Judgment, models.PROTECT, related_name="probe_after")
    """The judgment after which it came: each is a draw that gives one probe at most."""

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(gold__isnull=False, repeats=None)
                | Q(gold=None, repeats__isnull=False),
                name="probe_of_one_kind",
            ),
            # A null is distinct from every other, so repeats are not held by this.
            models.UniqueConstraint(
                fields=["gold", "annotator"], name="gold_once_a_person"
            ),
        ]
        indexes = [
            # Serves the newest probe, and the latest gold, of one annotator.
            models.Index(fields=["project", "annotator", "-id"], name="my_probes")
        ]

    def __str__(self) -> str:
        return f"probe {self.pk} for {self.annotator}"

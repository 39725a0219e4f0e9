"""Training rounds: the row is the truth, the run folder and Celery follow it.

Neither the trainer (training/dpo) nor the metrics' meaning is here.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

USER = settings.AUTH_USER_MODEL


class TrainingRound(models.Model):
    """One DPO run over a frozen set of pairs."""

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        PREPARING = "preparing", _("preparing")
        TRAINING = "training", _("training")
        PUBLISHING = "publishing", _("publishing")
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    ACTIVE = [State.QUEUED, State.PREPARING, State.TRAINING, State.PUBLISHING]

    class Data(models.TextChoices):
        ALL = "all", _("all sound pairs")
        NEW = "new", _("only new pairs")
        NEW_AND_REPLAY = "new_and_replay", _("new pairs and a replayed share")

    class Reference(models.TextChoices):
        BASE = "base", _("the base")
        START = "start", _("the start")

    project = models.ForeignKey(
        "annotation.Project", models.CASCADE, related_name="training_rounds"
    )
    number = models.PositiveIntegerField()
    """Within its project, from 1."""
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    preset = models.CharField(max_length=20, blank=True)
    start = models.ForeignKey("inference.Policy", models.PROTECT, related_name="+")
    """A base: a fresh adapter; else the adapter that training continues."""
    reference = models.CharField(max_length=10, choices=Reference)
    data = models.CharField(max_length=20, choices=Data)
    config = models.JSONField(default=dict, blank=True)
    """What was asked for of the trainer's config.json (design §5.2)."""
    pairs_sha256 = models.CharField(max_length=64, blank=True)
    """Of pairs.jsonl, frozen when the round was made."""
    policy = models.OneToOneField(
        "inference.Policy",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="training_round",
    )
    created_by = models.ForeignKey(USER, models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    """One or two sentences a manager understands; the log has the rest."""
    cancel_requested = models.BooleanField(default=False)
    summary = models.JSONField(default=dict, blank=True)
    """The trainer's summary.json."""

    epoch = models.PositiveIntegerField(default=0)
    """Raised whenever the round changes hands; a write with an older one is refused."""
    attempts = models.PositiveIntegerField(default=0)
    owner = models.CharField(max_length=120, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    """The supervisor is alive."""
    progress_at = models.DateTimeField(null=True, blank=True)
    """The trainer's steps move."""
    nudged_at = models.DateTimeField(null=True, blank=True)
    """When Celery was last told of it; a message that got lost is sent again."""
    deploys_itself = models.BooleanField(default=False, editable=False)
    """Whether the project wanted so (`auto_deploy`) as its policy came to be."""
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    eta_seconds = models.FloatField(null=True, blank=True)
    activity = models.JSONField(default=dict, blank=True)
    """What the trainer is at: {"phase": "reference", "done": 12, "of": 57}."""

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["project"],
                condition=Q(
                    state__in=["queued", "preparing", "training", "publishing"]
                ),
                name="one_active_round_a_project",
            ),
            models.UniqueConstraint(
                fields=["project", "number"], name="round_number_once"
            ),
            models.CheckConstraint(
                condition=Q(
                    state__in=[
                        "queued",
                        "preparing",
                        "training",
                        "publishing",
                        "succeeded",
                        "failed",
                        "cancelled",
                    ]
                ),
                name="round_state_known",
            ),
            models.CheckConstraint(
                condition=~Q(state="succeeded") | Q(policy__isnull=False),
                name="success_has_a_policy",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.project} #{self.number}"

    @property
    def is_active(self) -> bool:
        return self.state in self.ACTIVE

    @property
    def folder(self):
        """Frozen pairs, and a run folder for each attempt."""
        return settings.ROUNDS_DIR / str(self.pk)


class RoundPair(models.Model):
    """A pair as a round froze it."""

    training_round = models.ForeignKey(
        TrainingRound, models.CASCADE, related_name="round_pairs"
    )
    pair = models.ForeignKey(
        "annotation.PreferencePair", models.PROTECT, related_name="round_pairs"
    )
    is_replay = models.BooleanField(default=False)
    final_margin = models.FloatField(null=True, blank=True)
    """Reward margin after training, from pairs_scored.jsonl."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["training_round", "pair"], name="pair_once_a_round"
            )
        ]

    def __str__(self) -> str:
        return f"{self.training_round}: {self.pair}"


class RoundMetric(models.Model):
    """One line of metrics.jsonl; a step that a resume repeats replaces its line."""

    training_round = models.ForeignKey(
        TrainingRound, models.CASCADE, related_name="metrics"
    )
    phase = models.CharField(max_length=8, default="dpo")
    step = models.PositiveIntegerField()
    values = models.JSONField()
    """TRL's names, e.g. {"rewards/margins": 0.12, …}."""
    is_evaluated = models.BooleanField(default=False)
    """Whether `values` has any of `eval_…`: found without reading those of all steps."""

    class Meta:
        ordering = ["step"]
        indexes = [
            models.Index(
                fields=["training_round", "phase", "step"],
                condition=Q(is_evaluated=True),
                name="evaluated_steps",
            )
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["training_round", "phase", "step"], name="metric_once_a_step"
            )
        ]

    def __str__(self) -> str:
        return f"{self.training_round} {self.phase} {self.step}"


class RoundEvent(models.Model):
    """One transition of a round; append-only."""

    training_round = models.ForeignKey(
        TrainingRound, models.CASCADE, related_name="events"
    )
    at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=10)
    epoch = models.PositiveIntegerField()
    detail = models.TextField(blank=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.training_round} → {self.state}"

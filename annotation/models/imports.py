"""Imports of large files: the row is the truth about one, a message only a nudge."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.projects import USER, Project


class ImportJob(models.Model):
    """One file on its way in. Its counts grow in the transaction that stores the rows."""

    class Kind(models.TextChoices):
        PROMPTS = "prompts", _("prompts")
        PAIRS = "pairs", _("pairs")

    class State(models.TextChoices):
        PREVIEW = "preview", _("waits for you")
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    ACTIVE = (State.QUEUED, State.RUNNING)
    """Somebody will go on with it by themselves."""
    STOPPED = (State.FAILED, State.CANCELLED)
    """It can be gone on with from where it was."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="imports")
    by = models.ForeignKey(USER, models.PROTECT, related_name="+")
    kind = models.CharField(max_length=7, choices=Kind, default=Kind.PROMPTS)
    state = models.CharField(max_length=9, choices=State, default=State.PREVIEW)
    name = models.CharField(max_length=200, blank=True)
    """Of the file or folder, as people know it; never a path that is opened. Pasted lines
    have none."""
    path = models.CharField(max_length=500)
    """Where the file is kept, below IMPORTS_DIR, or of a folder below IMPORT_DIR."""
    is_ours = models.BooleanField(default=True)
    """Uploaded: removed when it is done. Else it lies on the server and stays."""
    size = models.PositiveBigIntegerField(default=0)
    mapping = models.JSONField(default=dict, blank=True)
    """{our name: the file's column}, as the manager said; empty: the file's own names."""
    items_done = models.PositiveIntegerField(default=0)
    """Pairs, prompts and bad rows that need not be looked at again."""
    share = models.FloatField(default=0.0)
    """Of the file, read; in [0, 1]."""
    accepted = models.PositiveIntegerField(default=0)
    labelled = models.PositiveIntegerField(default=0, db_default=0)
    """Of the accepted, labelled answers that make no pair."""
    duplicates = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=500, blank=True)
    epoch = models.PositiveIntegerField(default=0)
    """Of the worker that may write; an earlier one's writes are refused."""
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    """Workers that took it up since rows were last stored."""
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    state__in=[
                        *("preview", "queued", "running"),
                        *("done", "failed", "cancelled"),
                    ]
                ),
                name="import_state_known",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["prompts", "pairs"]), name="import_kind_known"
            ),
            models.CheckConstraint(
                condition=~Q(state="running") | Q(heartbeat_at__isnull=False),
                name="running_import_has_a_heart",
            ),
        ]
        indexes = [
            models.Index(
                fields=["id"],
                condition=Q(state__in=["queued", "running"]),
                name="imports_under_way",
            )
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.state})"

    @property
    def title(self) -> str:
        """The name, or what stands for it, in the reader's language."""
        return self.name or _("pasted lines")

    @property
    def is_active(self) -> bool:
        return self.state in self.ACTIVE

    @property
    def is_stopped(self) -> bool:
        return self.state in self.STOPPED


class ImportFault(models.Model):
    """One row that could not be taken, and why."""

    job = models.ForeignKey(ImportJob, models.CASCADE, related_name="faults")
    number = models.PositiveIntegerField()
    """Place among the job's items: what a resumed worker finds again is not doubled."""
    part = models.CharField(max_length=200, blank=True)
    """File within an archive or folder."""
    line = models.PositiveIntegerField()
    reason = models.CharField(max_length=500)

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="fault_once")
        ]

    def __str__(self) -> str:
        return f"{self.part}:{self.line} {self.reason}"

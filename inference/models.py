"""Policies, where they serve, and the vLLM servers that serve them.

Knows nothing of projects, pairs or rounds: a project owns a Channel, a round
produces a Policy, and both point here.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Policy(models.Model):
    """A servable model: a base, or a base and an adapter. Name and files never change."""

    name = models.CharField(max_length=64, unique=True, editable=False)
    number = models.PositiveIntegerField()
    base_model = models.CharField(max_length=500)
    """Folder or hub id of the base, as the trainer and vLLM are given it."""
    base_sha256 = models.CharField(max_length=64)
    """Hash of the base's config and weights."""
    channel = models.ForeignKey(
        "Channel", models.PROTECT, null=True, blank=True, related_name="policies"
    )
    """Where it may serve; null for a base, which may serve everywhere."""
    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="children"
    )
    adapter_sha256 = models.CharField(max_length=64, blank=True)
    """Empty for a base."""
    rank = models.PositiveIntegerField(default=0)
    rejected_reason = models.TextField(blank=True)
    """Why its files or its canary were refused; a rejected policy never serves."""
    created_at = models.DateTimeField(auto_now_add=True)
    staged_at = models.DateTimeField(null=True, blank=True, editable=False)
    """When it was last being loaded and checked to serve."""

    class Meta:
        verbose_name_plural = "policies"
        ordering = ["number", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(number=0, adapter_sha256="", channel=None, parent=None)
                | (Q(number__gt=0, channel__isnull=False) & ~Q(adapter_sha256="")),
                name="policy_is_base_or_adapter",
            ),
            models.UniqueConstraint(
                fields=["number"], condition=Q(number__gt=0), name="policy_number_once"
            ),
            models.UniqueConstraint(
                fields=["channel", "adapter_sha256"],
                condition=Q(number__gt=0),
                name="policy_files_once_a_channel",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_base(self) -> bool:
        return self.number == 0

    @property
    def adapter_path(self):
        """The adapter's folder, made once and never changed; None for a base."""
        return None if self.is_base else settings.POLICIES_DIR / self.name


class Channel(models.Model):
    """A place where exactly one policy serves; promotion flips its pointer."""

    slug = models.SlugField(max_length=80, unique=True)
    serving = models.ForeignKey(Policy, models.PROTECT, related_name="+")

    def __str__(self) -> str:
        return self.slug


class Deployment(models.Model):
    """One flip of a channel's pointer; append-only, so a rollback knows where to go."""

    channel = models.ForeignKey(Channel, models.CASCADE, related_name="deployments")
    policy = models.ForeignKey(Policy, models.PROTECT, related_name="deployments")
    previous = models.ForeignKey(Policy, models.PROTECT, null=True, related_name="+")
    is_rollback = models.BooleanField(default=False)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
    )
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.channel} → {self.policy}"


class Replica(models.Model):
    """A vLLM server: the state wanted of it, and the state it was last seen in."""

    class Wanted(models.TextChoices):
        RUNNING = "running", _("running")
        STOPPED = "stopped", _("stopped")

    class State(models.TextChoices):
        UNKNOWN = "unknown", _("unknown")
        STARTING = "starting", _("starting")
        READY = "ready", _("ready")
        STOPPED = "stopped", _("stopped")
        FAILED = "failed", _("failed")

    url = models.URLField(unique=True)
    is_managed = models.BooleanField(default=False)
    """True where `manage.py run_vllm` starts and stops it; else somebody else does."""
    wanted = models.CharField(max_length=10, choices=Wanted, default=Wanted.RUNNING)
    wanted_reason = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.UNKNOWN)
    detail = models.TextField(blank=True)
    """One sentence a manager understands, e.g. what is being waited for."""
    warning = models.TextField(blank=True)
    """What is wrong though it serves, e.g. that it renders chats unlike the trainer."""
    refused = models.JSONField(default=dict, blank=True, editable=False)
    """{name: why} of the serving policies that it can't be given back: their own files or
    answers are wrong. It serves all others."""
    base = models.ForeignKey(Policy, models.PROTECT, null=True, related_name="+")
    heartbeat_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["url"]

    def __str__(self) -> str:
        return self.url

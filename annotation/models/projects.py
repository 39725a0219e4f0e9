"""Projects, their members and prompts."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.fields import ScriptField, asked

USER = settings.AUTH_USER_MODEL


class Role(models.TextChoices):
    """What a member may do; each role may also do what those before it may."""

    ANNOTATOR = "annotator", _("Annotator")
    REVIEWER = "reviewer", _("Reviewer")
    MANAGER = "manager", _("Manager")


class Project(models.Model):
    slug = models.SlugField(max_length=80, unique=True)
    name = models.CharField(max_length=120)
    guidelines = models.TextField(blank=True)
    """Markdown, shown to annotators in a drawer."""
    channel = models.OneToOneField("inference.Channel", models.PROTECT)
    base = models.ForeignKey("inference.Policy", models.PROTECT, related_name="+")
    """The base it was made with; another one served is said so, never used silently."""
    settings = models.JSONField(default=dict, blank=True)
    """What differs from the defaults; read it through `project_settings.of(project)`."""
    rules_code = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    """validation.CODE_VERSION by which its pairs were last checked or are due."""
    decide_again_since = models.DateTimeField(null=True, editable=False)
    """When the weights or the way of deciding changed, until all decisions have followed."""
    members = models.ManyToManyField(
        USER, through="Membership", related_name="projects"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(USER, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role)

    class Meta:
        ordering = ["user__username"]
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="member_once"),
            models.CheckConstraint(
                condition=Q(role__in=Role.values), name="role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role}) in {self.project}"


class Prompt(models.Model):
    project = models.ForeignKey(Project, models.CASCADE, related_name="prompts")
    messages = models.JSONField()
    """Chat messages before the answer: [{"role": …, "content": …}, …]."""
    sha256 = models.CharField(max_length=64)
    """Of the messages' canonical JSON: the same prompt is imported once."""
    script = ScriptField(reads="messages")
    """Of the question, not of a system prompt before it."""
    is_held_out = models.BooleanField(default=False)
    """Set aside by its hash on import: its pairs measure, they never train."""
    is_gold = models.BooleanField(default=False, db_default=False)
    """Came with a gold item and is there for that alone: the model never answers it."""
    is_asked = models.BooleanField(default=True)
    """Whether the policy answers it; one that only came with imported pairs isn't."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "sha256"], name="prompt_once")
        ]

    def __str__(self) -> str:
        return asked(self.messages)[:80] or "—"

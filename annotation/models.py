"""Projects, prompts, comparisons, judgments and the pairs that come of them.

The invariants of the design are constraints here wherever a database can hold them.
What follows from several rows (leasing, deciding, freezing) is in services.
"""

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Concat, Length, Replace
from django.utils.translation import gettext_lazy as _

USER = settings.AUTH_USER_MODEL


class Role(models.TextChoices):
    """What a member may do; each role may also do what those before it may."""

    ANNOTATOR = "annotator", _("Annotator")
    REVIEWER = "reviewer", _("Reviewer")
    MANAGER = "manager", _("Manager")


class Verdict(models.TextChoices):
    """What was seen, not which answer it was."""

    FIRST = "first", _("First is better")
    SECOND = "second", _("Second is better")
    TIE = "tie", _("Equally good")
    BOTH_BAD = "both_bad", _("Both bad")


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
    is_held_out = models.BooleanField(default=False)
    """Set aside by its hash on import: its pairs measure, they never train."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "sha256"], name="prompt_once")
        ]

    def __str__(self) -> str:
        return str(self.messages[-1]["content"])[:80] if self.messages else "—"


def _occurrences(mark: str) -> Any:
    """How often the mark stands in `text`, a newline put before it."""
    lines = Concat(Value("\n"), F("text"))
    without = Length(Replace(lines, Value(mark), Value("")))
    return (Length(lines) - without) / len(mark)


class Completion(models.Model):
    """One answer to one prompt, and where it came from."""

    class Source(models.TextChoices):
        SAMPLED = "sampled", _("sampled")
        EDITED = "edited", _("edited")
        IMPORTED = "imported", _("imported")

    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="completions")
    source = models.CharField(max_length=10, choices=Source)
    text = models.TextField(blank=True)
    html = models.TextField(blank=True, editable=False)
    """The text rendered safely, once, when the row is made."""
    characters = models.GeneratedField(
        expression=Length("text"),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    markup = models.GeneratedField(
        expression=_occurrences("**") / 2
        + _occurrences("\n#")
        + _occurrences("\n- ")
        + _occurrences("\n* ")
        + _occurrences("\n1. "),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    """Bold passages, headings, listed points and numbered lists."""
    messages = models.JSONField(null=True, blank=True)
    """For imports whose answer is more than one assistant message; else null."""
    policy = models.ForeignKey(
        "inference.Policy",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="completions",
    )
    sampling = models.JSONField(default=dict, blank=True)
    seed = models.BigIntegerField(null=True, blank=True)
    finish_reason = models.CharField(max_length=20, blank=True)
    prompt_token_ids = models.JSONField(null=True, blank=True)
    token_ids = models.JSONField(null=True, blank=True)
    logprobs = models.JSONField(null=True, blank=True)
    """Log-probability of each token under its policy, as vLLM reported it (nats)."""
    edited_from = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="edits"
    )
    author = models.ForeignKey(
        USER, models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    source="sampled",
                    policy__isnull=False,
                    finish_reason__in=["stop", "length"],
                )
                | Q(source="edited", policy=None, edited_from__isnull=False)
                | Q(source="imported", policy=None, edited_from=None),
                name="completion_knows_its_source",
            )
        ]

    def __str__(self) -> str:
        return self.text[:80]


class Comparison(models.Model):
    """One prompt, two answers, and how many judgments are wanted (its slots)."""

    class Purpose(models.TextChoices):
        TRAIN = "train", _("train")
        HEAD_TO_HEAD = "head_to_head", _("head to head")
        GOLD = "gold", _("gold")
        REPEAT = "repeat", _("repeat")

    class State(models.TextChoices):
        OPEN = "open", _("open")
        DECIDED = "decided", _("decided")
        WITHDRAWN = "withdrawn", _("withdrawn")

    project = models.ForeignKey(Project, models.CASCADE, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="comparisons")
    a = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    b = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    policy = models.ForeignKey(
        "inference.Policy",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="comparisons",
    )
    """The policy that gave both answers; null where they came from elsewhere."""
    purpose = models.CharField(max_length=12, choices=Purpose, default=Purpose.TRAIN)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(a=F("b")), name="comparison_of_two"),
            models.CheckConstraint(
                condition=Q(purpose__in=["train", "head_to_head", "gold", "repeat"]),
                name="purpose_known",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["open", "decided", "withdrawn"]),
                name="comparison_state_known",
            ),
        ]
        indexes = [
            # Serves the choice of the next comparison and the size of the stock.
            models.Index(
                fields=["project", "id"],
                condition=Q(state="open"),
                name="comparison_waiting",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prompt} ({self.pk})"


class Lease(models.Model):
    """One annotator's short claim on one comparison; its key makes judging repeatable."""

    class Outcome(models.TextChoices):
        ACTIVE = "", _("active")
        JUDGED = "judged", _("judged")
        SKIPPED = "skipped", _("skipped")
        EXPIRED = "expired", _("expired")

    key = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="leases")
    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="leases")
    annotator = models.ForeignKey(USER, models.PROTECT, related_name="leases")
    first = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    """Shown first (left, or on top): fixed by the server, never by the browser."""
    second = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    comparison_alias = models.UUIDField(default=uuid.uuid4, editable=False)
    first_alias = models.UUIDField(default=uuid.uuid4, editable=False)
    second_alias = models.UUIDField(default=uuid.uuid4, editable=False)
    """Random ids for this lease alone, so that nothing tells a pair comes again."""
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    outcome = models.CharField(max_length=8, choices=Outcome, default="", blank=True)
    skip_reason = models.CharField(max_length=200, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # Asking again gives the lease already held.
            models.UniqueConstraint(
                fields=["project", "annotator"],
                condition=Q(outcome=""),
                name="one_lease_at_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(first=F("second")), name="lease_shows_two"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["", "judged", "skipped", "expired"]),
                name="lease_outcome_known",
            ),
        ]
        indexes = [
            models.Index(fields=["annotator", "comparison"], name="lease_by_annotator")
        ]

    def __str__(self) -> str:
        return f"{self.annotator} on {self.comparison_id}"


class Slot(models.Model):
    """Room for one judgment on a comparison; as many rows as its quota.

    A lease takes a slot by a conditional UPDATE, and an expired lease's slot is taken
    the same way, so leases and judgments together never exceed the quota.
    """

    class State(models.TextChoices):
        OPEN = "open", _("open")
        LEASED = "leased", _("leased")
        JUDGED = "judged", _("judged")
        WITHDRAWN = "withdrawn", _("withdrawn")

    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="slots")
    number = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=9, choices=State, default=State.OPEN)
    lease = models.OneToOneField(
        Lease, models.PROTECT, null=True, blank=True, related_name="slot"
    )
    """The lease that holds it, or whose judgment fills it."""
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["comparison", "number"], name="slot_once"),
            models.CheckConstraint(
                condition=Q(
                    state__in=["open", "withdrawn"], lease=None, expires_at=None
                )
                | Q(state="leased", lease__isnull=False, expires_at__isnull=False)
                | Q(state="judged", lease__isnull=False, expires_at=None),
                name="slot_state_is_whole",
            ),
        ]
        indexes = [
            models.Index(
                fields=["comparison"],
                condition=Q(state__in=["open", "leased"]),
                name="slot_free",
            )
        ]

    def __str__(self) -> str:
        return f"{self.comparison_id}#{self.number} {self.state}"


class Judgment(models.Model):
    """One annotator's act. Undoing keeps the row and sets `undone_at`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="judgments")
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
    """What an imported row carried besides, given back on export."""
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


class StockReservation(models.Model):
    """A worker's announcement that it makes a comparison of this prompt.

    Counted as stock until it ends, so that several workers never pile up; one whose
    worker died ends by its time. A prompt that gave no usable pair rests the same way.
    """

    project = models.ForeignKey(
        Project, models.CASCADE, related_name="stock_reservations"
    )
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="+")
    is_resting = models.BooleanField(default=False)
    """The prompt is left alone for a while: its answers were the same, say."""
    until = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["prompt"], name="prompt_reserved_once")
        ]

    def __str__(self) -> str:
        return f"{self.prompt_id} until {self.until}"

"""Completions, the comparisons of two of them, and the slots and leases that hand them out."""

import random
import uuid
from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Concat, Length, Replace
from django.utils.translation import gettext_lazy as _

from annotation.models.fields import ScriptField
from annotation.models.projects import USER, Project, Prompt
from annotation.rendering import RENDERER_VERSION


def _occurrences(mark: str) -> Any:
    """How often the mark stands in `text`, a newline put before it."""
    lines = Concat(Value("\n"), F("text"))
    without = Length(Replace(lines, Value(mark), Value("")))
    return (Length(lines) - without) / len(mark)


def renderer_version() -> int:
    """A default that follows the renderer without a migration each time."""
    return RENDERER_VERSION


TOKENS = ("prompt_token_ids", "token_ids", "logprobs")
"""Columns of a completion that are many times its text: no page shows them, no export
holds them."""


def unseen(*paths: str, also: Sequence[str] = ()) -> list[str]:
    """For `defer`: TOKENS and the columns in `also` of the completions at these paths."""
    return [f"{path}__{name}" for path in paths for name in (*TOKENS, *also)]


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
    html_version = models.PositiveSmallIntegerField(
        default=renderer_version, editable=False
    )
    """The RENDERER_VERSION that made `html`; an older one is not shown any more."""
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
    script = ScriptField(reads="text")
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
        indexes = [
            # Serves annotation/rerendering.py, which looks for what is out of date.
            models.Index(fields=["html_version"], name="completion_by_renderer"),
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

    OFFERED = ("train", "head_to_head")
    """Purposes that wait for whoever comes; the others are made for one annotator."""

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
    withdrawn_at = models.DateTimeField(null=True, blank=True, editable=False)
    """Kept when what was judged before decides it: undone, it is withdrawn again."""
    judged = models.PositiveSmallIntegerField(default=0, editable=False)
    """Standing judgments, counted anew under the row's lock whenever one changes."""
    shuffle = models.FloatField(default=random.random, editable=False)
    """Its place in a random order, 0 to 1."""
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
            models.Index(
                fields=["project", "judged", "id"],
                condition=Q(state="open"),
                name="comparison_fewest",
            ),
            models.Index(
                fields=["project", "shuffle"],
                condition=Q(state="open"),
                name="comparison_random",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.prompt} ({self.pk})"


class Lease(models.Model):
    """One annotator's short claim on one comparison; its key makes judging repeatable."""

    class Outcome(models.TextChoices):
        ACTIVE = "", _("active")
        AHEAD = "ahead", _("reserved ahead")
        JUDGED = "judged", _("judged")
        SKIPPED = "skipped", _("skipped")
        EXPIRED = "expired", _("expired")

    HELD = ("", "ahead")
    """On the desk, or reserved for it: outcomes of a lease that may have a slot."""

    class Flag(models.TextChoices):
        """What is wrong with a pair that somebody flagged instead of judging it."""

        UNSAFE = "unsafe", _("unsafe")
        BROKEN = "broken", _("broken")
        LANGUAGE = "language", _("not my language")
        OTHER = "other", _("something else")

    key = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="leases")
    comparison = models.ForeignKey(Comparison, models.CASCADE, related_name="leases")
    # No index of its own where another begins with the column: judging writes here.
    annotator = models.ForeignKey(
        USER, models.PROTECT, related_name="leases", db_index=False
    )
    first = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    """Shown first (left, or on top): fixed by the server, never by the browser."""
    second = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    comparison_alias = models.UUIDField(default=uuid.uuid4, editable=False)
    first_alias = models.UUIDField(default=uuid.uuid4, editable=False)
    second_alias = models.UUIDField(default=uuid.uuid4, editable=False)
    """Random ids for this lease alone, so that nothing tells a pair comes again."""
    created_at = models.DateTimeField(auto_now_add=True)
    """When it came to the desk; for one reserved ahead, until then, when it was made."""
    expires_at = models.DateTimeField()
    outcome = models.CharField(max_length=8, choices=Outcome, default="", blank=True)
    skip_reason = models.TextField(blank=True)
    flag = models.CharField(max_length=8, choices=Flag, default="", blank=True)
    """Of a skip: what is wrong with the pair; empty where nothing was said to be."""
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # Asking again gives the lease already held.
            models.UniqueConstraint(
                fields=["project", "annotator"],
                condition=Q(outcome=""),
                name="one_lease_at_a_time",
            ),
            models.UniqueConstraint(
                fields=["project", "annotator"],
                condition=Q(outcome="ahead"),
                name="one_lease_ahead",
            ),
            models.CheckConstraint(
                condition=~Q(first=F("second")), name="lease_shows_two"
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["", "ahead", "judged", "skipped", "expired"]),
                name="lease_outcome_known",
            ),
            models.CheckConstraint(
                condition=Q(flag="")
                | Q(
                    flag__in=["unsafe", "broken", "language", "other"],
                    outcome="skipped",
                ),
                name="flag_ends_a_lease",
            ),
        ]
        indexes = [
            models.Index(fields=["annotator", "comparison"], name="lease_by_annotator"),
            # Serves the list of flagged pairs, newest first.
            models.Index(
                fields=["project", "-ended_at"],
                condition=~Q(flag=""),
                name="lease_flagged",
            ),
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

    comparison = models.ForeignKey(
        Comparison, models.CASCADE, related_name="slots", db_index=False
    )
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

    def __str__(self) -> str:
        return f"{self.comparison_id}#{self.number} {self.state}"


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

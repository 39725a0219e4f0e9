"""Preference pairs and what each rule said of them."""

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from annotation.models.comparisons import Completion
from annotation.models.judgments import Decision
from annotation.models.projects import USER, Project, Prompt

FROZEN = Q(frozen_at__isnull=False, superseded_at=None)
"""Pairs that a round has taken. They all stand (`frozen_pair_stands`); that it is asked for
lets those of a decision be found by the index that holds each of its pairs to be one."""


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
    # No index of its own where another begins with the column: judging writes here.
    decision = models.ForeignKey(
        Decision,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="pairs",
        db_index=False,
    )
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.JUDGED)
    chosen = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    rejected = models.ForeignKey(Completion, models.PROTECT, related_name="+")
    weight = models.FloatField(default=1.0)
    state = models.CharField(max_length=9, choices=State, default=State.UNCHECKED)
    is_due = models.BooleanField(default=False, db_default=False)
    """The rules were changed since: state and verdicts are as of the former ones until
    the pair's turn comes, and until then no round takes it."""
    extra = models.JSONField(default=dict, blank=True)
    """{"format", "kept"} of an imported row, by which export gives the row back; with
    "edited" where our own table said that it was an edit."""
    content_sha256 = models.CharField(max_length=64, blank=True, editable=False)
    """Of prompt and both answers of an imported pair: the same is imported once."""
    created_at = models.DateTimeField(auto_now_add=True)
    superseded_at = models.DateTimeField(null=True, blank=True)
    frozen_at = models.DateTimeField(null=True, blank=True)
    """Set when a round first takes it; from then on it and its decision never change."""
    repaired_from = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, related_name="repaired_by_pair"
    )
    """The superseded pair whose answers a reviewer edited to make this one."""
    place = models.BigIntegerField(null=True, editable=False)
    """Of a repair, the id of the first pair it goes back to: it came where that one came.
    Null: its own id."""
    repairer = models.ForeignKey(
        USER, models.PROTECT, null=True, blank=True, related_name="+"
    )
    repair_note = models.CharField(max_length=500, blank=True)
    chosen_hash = models.BigIntegerField(null=True, editable=False)
    """Of the answer's text, as rejected_hash: set by the first check, so that the
    opposite pair is found by an index."""
    rejected_hash = models.BigIntegerField(null=True, editable=False)
    near_likeness = models.FloatField(null=True, editable=False)
    """How like another prompt this pair's prompt is, at most; see neighbours.py."""
    near_pair = models.ForeignKey(
        "self", models.SET_NULL, null=True, editable=False, related_name="+"
    )
    """The pair on that prompt, which came first."""

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(chosen=F("rejected")), name="pair_of_two"
            ),
            # By it a decision's pairs are found, too.
            models.UniqueConstraint(
                fields=["decision", "kind", "chosen"],
                condition=Q(superseded_at=None),
                name="pair_once_a_decision",
            ),
            # Of edited ones there are as many as different edits.
            models.UniqueConstraint(
                fields=["decision"],
                condition=Q(superseded_at=None, kind="judged"),
                name="one_judged_pair_a_decision",
            ),
            models.CheckConstraint(
                condition=Q(repaired_from=None, repairer=None)
                | Q(repaired_from__isnull=False, repairer__isnull=False),
                name="repair_has_its_repairer",
            ),
            models.CheckConstraint(
                condition=Q(frozen_at=None)
                | Q(superseded_at=None, state="accepted", is_due=False),
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
            models.Index(
                fields=["project", "id"],
                condition=Q(is_due=True, superseded_at=None),
                name="pairs_due",
            ),
            # Serves the look for the same answers the other way round.
            models.Index(
                fields=["prompt", "chosen_hash", "rejected_hash"],
                condition=Q(superseded_at=None),
                name="pairs_by_content",
            ),
        ]

    def __str__(self) -> str:
        return f"pair {self.pk}"

    @property
    def first_kind(self) -> str:
        """What it was where it was made: an import of ours may say that it was an edit."""
        return self.Kind.EDITED.value if self.extra.get("edited") else self.kind

    @property
    def is_edit(self) -> bool:
        """Whether the chosen answer is the rejected one, improved; so of an import, too."""
        return self.first_kind == self.Kind.EDITED


class LabelledAnswer(models.Model):
    """An imported answer that was found good or bad, and no other one to make a pair.

    Kept so that it is exported again; no rule checks it and no round trains on it.
    """

    project = models.ForeignKey(
        Project, models.CASCADE, related_name="labelled_answers", db_index=False
    )
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="+")
    completion = models.OneToOneField(
        Completion, models.PROTECT, related_name="labelled"
    )
    label = models.BooleanField()
    weight = models.FloatField(default=1.0)
    kept = models.TextField()
    """JSON by which export gives the row back."""
    content_sha256 = models.CharField(max_length=64)
    """Of prompt, answer and label: the same is imported once."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "content_sha256"], name="labelled_answer_once"
            ),
            models.CheckConstraint(
                condition=Q(weight__gt=0), name="labelled_answer_weighs"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.completion}: {'good' if self.label else 'bad'}"


class PromptBand(models.Model):
    """One of the numbers that prompts which are nearly the same have in common."""

    # Without an index of its own: bands are found by the unique one, or by their prompt.
    project = models.ForeignKey(
        Project, models.CASCADE, related_name="+", db_index=False
    )
    prompt = models.ForeignKey(Prompt, models.CASCADE, related_name="+")
    value = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["project", "value", "prompt"], name="prompt_band_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.prompt_id}: {self.value}"


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
    measured = models.FloatField(null=True, blank=True)
    """The number that a parameter was held against, where the rule has one."""
    is_let_through = models.BooleanField(default=False)
    """Whether a reviewer has said that the rule is wrong here (LetThrough)."""
    checked_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["pair", "rule"], name="rule_once_a_pair"),
            models.CheckConstraint(
                condition=Q(is_let_through=False) | ~Q(result="pass"),
                name="only_an_objection_is_let_through",
            ),
        ]
        indexes = [
            models.Index(
                fields=["rule", "pair"],
                condition=~Q(result="pass"),
                name="objections_by_rule",
            )
        ]

    def __str__(self) -> str:
        return f"{self.rule}: {self.result}"


class LetThrough(models.Model):
    """A reviewer's word that some rules are wrong about a pair. Never changed but taken
    back, which keeps the row."""

    pair = models.ForeignKey(
        PreferencePair, models.CASCADE, related_name="let_throughs"
    )
    rules = models.JSONField()
    """The names of the rules that objected then; what others say later still counts."""
    seen = models.JSONField(default=dict)
    """{rule: [result, reason]} as it was told then; what the rule says later of another
    kind (it rejects what it could not check) still counts."""
    note = models.CharField(max_length=500)
    by = models.ForeignKey(USER, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    taken_back_by = models.ForeignKey(
        USER, models.PROTECT, null=True, blank=True, related_name="+"
    )
    taken_back_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["pair"],
                condition=Q(taken_back_at=None),
                name="let_through_once",
            ),
            models.CheckConstraint(condition=~Q(note=""), name="let_through_says_why"),
            models.CheckConstraint(
                condition=Q(taken_back_at=None, taken_back_by=None)
                | Q(taken_back_at__isnull=False, taken_back_by__isnull=False),
                name="taken_back_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pair_id} let through by {self.by}"

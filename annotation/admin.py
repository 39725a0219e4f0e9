"""The admin: to look at every row, and to repair what services don't.

What a change would break (judgments, leases, slots, decisions, pairs …) is read-only:
those rows follow from each other and are changed by services alone. Of a project the
name and the guidelines may be edited; members and settings have pages of their own.
"""

from django.contrib import admin

from annotation import models
from annotation.texts import sha256_of
from annotation.validation import RULES
from inference.admin import ReadOnly


@admin.register(models.Project)
class ProjectAdmin(admin.ModelAdmin):
    list_display = ["slug", "name", "base", "created_at"]
    search_fields = ["slug", "name"]
    # Addresses, channel and policies hang on these; and on settings what the pairs'
    # verdicts are: their own pages have the pairs checked again.
    readonly_fields = [
        *("slug", "channel", "base", "created_at", "rules_code"),
        *("settings", "where_settings_are_changed"),
    ]

    def has_add_permission(self, request):
        return False  # The page makes the channel with it.

    def has_delete_permission(self, request, obj=None):
        # What it has is protected; to find that out Django would read all of it.
        return False

    @admin.display(description="settings are changed")
    def where_settings_are_changed(self, project):
        return "on the project's pages Settings and Rules, or by the API"


@admin.register(models.Membership)
class MembershipAdmin(ReadOnly):
    list_display = ["user", "project", "role"]
    list_filter = ["role", "project"]
    list_select_related = ["user", "project"]
    search_fields = ["user__username", "project__slug"]


@admin.register(models.Prompt)
class PromptAdmin(ReadOnly):
    list_display = ["id", "__str__", "project", "is_held_out", "created_at"]
    list_filter = ["project", "is_held_out"]
    list_select_related = ["project"]
    search_fields = ["sha256"]
    readonly_fields = ["hash_of_the_messages"]

    @admin.display(description="hash of the messages as they are")
    def hash_of_the_messages(self, prompt):
        return sha256_of(prompt.messages)


@admin.register(models.Completion)
class CompletionAdmin(ReadOnly):
    list_display = ["id", "__str__", "source", "policy", "finish_reason", "created_at"]
    list_filter = ["source", "finish_reason", "policy"]
    list_select_related = ["policy"]
    search_fields = ["=id", "=prompt__id"]


class SlotInline(admin.TabularInline):
    model = models.Slot
    extra = 0
    can_delete = False
    fields = readonly_fields = ["number", "state", "lease", "expires_at"]


@admin.register(models.Comparison)
class ComparisonAdmin(ReadOnly):
    list_display = ["id", "project", "prompt", "policy", "purpose", "state"]
    list_filter = ["project", "state", "purpose", "policy"]
    list_select_related = ["project", "prompt", "policy"]
    search_fields = ["=id", "=prompt__id"]
    inlines = [SlotInline]


@admin.register(models.Lease)
class LeaseAdmin(ReadOnly):
    list_display = ["key", "project", "annotator", "comparison_id", "outcome", "flag"]
    list_display += ["created_at", "expires_at", "ended_at"]
    list_filter = ["project", "outcome", "flag", "created_at"]
    list_select_related = ["project", "annotator"]
    search_fields = ["=key", "annotator__username", "=comparison__id"]


@admin.register(models.Slot)
class SlotAdmin(ReadOnly):
    list_display = ["id", "comparison_id", "number", "state", "lease_id", "expires_at"]
    list_filter = ["state"]
    search_fields = ["=comparison__id", "=lease__key"]


@admin.register(models.Judgment)
class JudgmentAdmin(ReadOnly):
    list_display = [
        "id",
        "project",
        "annotator",
        "comparison_id",
        "verdict",
        "winner_id",
    ]
    list_display += ["seconds", "created_at", "undone_at", "waits_for_review"]
    list_filter = [
        "project",
        "verdict",
        "waits_for_review",
        ("undone_at", admin.EmptyFieldListFilter),
        "created_at",
    ]
    ordering = ["project_id", "-created_at"]  # As an index has them.
    list_select_related = ["project", "annotator"]
    search_fields = ["=id", "annotator__username", "=comparison__id"]


@admin.register(models.Decision)
class DecisionAdmin(ReadOnly):
    list_display = ["id", "comparison_id", "outcome", "winner_id", "method"]
    list_display += ["posterior", "decided_by", "category"]
    list_display += ["created_at", "superseded_at"]
    list_select_related = ["decided_by"]
    list_filter = ["outcome", "method", ("superseded_at", admin.EmptyFieldListFilter)]
    search_fields = ["=comparison__id"]


class AnnotatorWeightInline(admin.TabularInline):
    model = models.AnnotatorWeight
    extra = 0
    can_delete = False
    fields = readonly_fields = ["annotator", "judgments", "accuracy", "errors"]


@admin.register(models.Weighing)
class WeighingAdmin(ReadOnly):
    list_display = ["id", "project", "comparisons", "judgments", "settled"]
    list_display += ["iterations", "created_at"]
    list_filter = ["project"]
    list_select_related = ["project"]
    inlines = [AnnotatorWeightInline]


@admin.register(models.GoldItem)
class GoldItemAdmin(ReadOnly):
    list_display = ["id", "project", "prompt", "expected", "author"]
    list_display += ["created_at", "retired_at", "was_wrong"]
    list_filter = ["project", "expected", ("retired_at", admin.EmptyFieldListFilter)]
    list_select_related = ["project", "prompt", "author"]
    search_fields = ["=id", "=prompt__id"]


@admin.register(models.Probe)
class ProbeAdmin(ReadOnly):
    list_display = ["id", "project", "annotator", "comparison_id", "gold_id"]
    list_display += ["repeats_id"]
    list_filter = ["project", ("gold", admin.EmptyFieldListFilter)]
    list_select_related = ["project", "annotator"]
    search_fields = ["=comparison__id", "=gold__id", "annotator__username"]


class RuleVerdictInline(admin.TabularInline):
    model = models.RuleVerdict
    extra = 0
    can_delete = False
    fields = readonly_fields = [
        *("rule", "result", "reason", "params", "measured", "is_let_through"),
        "checked_at",
    ]


@admin.register(models.PreferencePair)
class PreferencePairAdmin(ReadOnly):
    list_display = ["id", "project", "prompt", "kind", "state", "weight"]
    list_display += ["frozen_at", "superseded_at"]
    list_filter = [
        "project",
        "kind",
        "state",
        ("frozen_at", admin.EmptyFieldListFilter),
    ]
    list_select_related = ["project", "prompt"]
    search_fields = ["=id", "=prompt__id", "=decision__comparison__id"]
    inlines = [RuleVerdictInline]


@admin.register(models.LabelledAnswer)
class LabelledAnswerAdmin(ReadOnly):
    list_display = ["id", "project", "prompt", "label", "weight", "created_at"]
    list_filter = ["project", "label"]
    list_select_related = ["project", "prompt"]
    search_fields = ["=id", "=prompt__id"]


class ByRule(admin.SimpleListFilter):
    """The rules there are, where Django would look for those in all verdicts."""

    title = parameter_name = "rule"

    def lookups(self, request, model_admin):
        return [(rule, rule) for rule in RULES]

    def queryset(self, request, queryset):
        return queryset.filter(rule=self.value()) if self.value() else queryset


@admin.register(models.RuleVerdict)
class RuleVerdictAdmin(ReadOnly):
    list_display = ["pair_id", "rule", "result", "reason", "is_let_through"]
    list_display += ["checked_at"]
    list_filter = ["result", ByRule]
    search_fields = ["=pair__id"]


@admin.register(models.LetThrough)
class LetThroughAdmin(ReadOnly):
    list_display = ["pair_id", "by", "note", "created_at", "taken_back_by"]
    list_display += ["taken_back_at"]
    list_filter = [("taken_back_at", admin.EmptyFieldListFilter)]
    list_select_related = ["by", "taken_back_by"]
    search_fields = ["=pair__id", "by__username"]


@admin.register(models.StockReservation)
class StockReservationAdmin(admin.ModelAdmin):
    """May be deleted: a prompt that rests is then tried again at once."""

    list_display = ["prompt", "project", "is_resting", "until"]
    list_filter = ["project", "is_resting"]
    list_select_related = ["prompt", "project"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

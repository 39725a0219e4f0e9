"""The admin: rounds and what belongs to them, to look at.

Nothing can be changed here: a round moves by conditional updates under its epoch, and
a form that saves a whole row would undo what its supervisor has just written. Cancel
and resume are on the round's page.
"""

from django.contrib import admin

from inference.admin import ReadOnly
from training import models


@admin.register(models.TrainingRound)
class TrainingRoundAdmin(ReadOnly):
    list_display = [
        "project",
        "number",
        "state",
        "step",
        "total_steps",
        "attempts",
        "epoch",
        "owner",
        "heartbeat_at",
        "policy",
    ]
    list_display_links = ["project", "number"]
    list_filter = ["state", "project"]
    list_select_related = ["project", "policy"]
    search_fields = ["project__slug", "policy__name", "error"]
    date_hierarchy = "created_at"


@admin.register(models.RoundPair)
class RoundPairAdmin(ReadOnly):
    list_display = ["training_round", "pair", "is_replay", "final_margin"]
    list_filter = ["is_replay", "training_round__project"]
    list_select_related = ["training_round__project", "pair"]


@admin.register(models.RoundMetric)
class RoundMetricAdmin(ReadOnly):
    list_display = ["training_round", "phase", "step", "loss", "margin"]
    list_filter = ["phase", "training_round__project"]
    list_select_related = ["training_round__project"]

    @admin.display(description="loss")
    def loss(self, row: models.RoundMetric) -> float | None:
        return row.values.get("loss")

    @admin.display(description="rewards/margins")
    def margin(self, row: models.RoundMetric) -> float | None:
        return row.values.get("rewards/margins")


@admin.register(models.RoundEvent)
class RoundEventAdmin(ReadOnly):
    list_display = ["at", "training_round", "state", "epoch", "detail"]
    list_filter = ["state", "training_round__project"]
    list_select_related = ["training_round__project"]
    date_hierarchy = "at"

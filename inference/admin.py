"""The admin looks at policies and servers, and changes but what is wanted of a server.

A policy is promoted and rolled back on the project's own pages, where its checks are.
"""

from django.contrib import admin
from django.http import HttpRequest

from inference.models import Channel, Deployment, Policy, Replica


class ReadOnly(admin.ModelAdmin):
    """Rows to look at: no form that could break an invariant."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Policy)
class PolicyAdmin(ReadOnly):
    list_display = (
        "name",
        "channel",
        "parent",
        "rank",
        "rejected_reason",
        "created_at",
    )
    list_select_related = ("channel", "parent")
    list_filter = ("channel",)
    search_fields = ("name", "base_model", "adapter_sha256")
    date_hierarchy = "created_at"


@admin.register(Channel)
class ChannelAdmin(ReadOnly):
    list_display = ("slug", "serving")
    list_select_related = ("serving",)
    search_fields = ("slug", "serving__name")


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly):
    list_display = ("at", "channel", "policy", "previous", "is_rollback", "by")
    list_select_related = ("channel", "policy", "previous", "by")
    list_filter = ("is_rollback", "channel")
    search_fields = ("channel__slug", "policy__name", "by__username")
    date_hierarchy = "at"


@admin.register(Replica)
class ReplicaAdmin(ReadOnly):
    """`wanted` may be set by hand, e.g. after a round that stopped vLLM was lost."""

    list_display = (
        "url",
        "state",
        "wanted",
        "base",
        "detail",
        "warning",
        "heartbeat_at",
    )
    list_select_related = ("base",)
    fields = (
        "url",
        "is_managed",
        "wanted",
        "wanted_reason",
        "state",
        "detail",
        "warning",
        "base",
        "heartbeat_at",
    )
    search_fields = ("url",)

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return admin.ModelAdmin.has_change_permission(self, request, obj)

    def get_readonly_fields(
        self, request: HttpRequest, obj: Replica | None = None
    ) -> tuple[str, ...]:
        return tuple(
            name for name in self.fields if name not in ("wanted", "wanted_reason")
        )

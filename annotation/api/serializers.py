"""What the calls of every noun share: instants, strict bodies, pages, problems.

Also used by training/api. Each noun's own serializers stand beside its views.
"""

import math
from datetime import UTC
from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import pagination, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from annotation.api.parsing import refuse_pieces
from annotation.errors import MOST_TOLD


class Instant(serializers.DateTimeField):
    """An instant in UTC, `…Z`, whatever TIME_ZONE the pages show."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(default_timezone=UTC, **kwargs)


class JSONObject(serializers.JSONField):
    """A JSON object that both databases can keep: no NUL, half surrogate or infinity."""

    default_error_messages = {
        "object": _("Must be a JSON object."),
        "unstorable": _(
            "Holds what can't be stored: NUL, half a surrogate pair or an infinite number."
        ),
    }

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail("object")
        if not is_storable(data):
            self.fail("unstorable")
        return data


def is_storable(value: Any) -> bool:
    if isinstance(value, str):
        return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)
    if isinstance(value, float):
        return math.isfinite(value)  # 1e400 is JSON, and no float
    if isinstance(value, dict):
        return all(is_storable(part) for part in (*value, *value.values()))
    if isinstance(value, list):
        return all(is_storable(part) for part in value)
    return True


class Body(serializers.Serializer):
    """A request's body. What it does not know it refuses, so that no typo is lost."""

    def to_internal_value(self, data: Any) -> Any:
        wrong = self.also_wrong(data) if isinstance(data, dict) else {}
        try:
            body = super().to_internal_value(data)
        except serializers.ValidationError as error:
            raise serializers.ValidationError({**wrong, **error.detail}) from None
        if wrong:
            raise serializers.ValidationError(wrong)
        return body

    def also_wrong(self, data: dict[str, Any]) -> dict[str, list[str]]:
        """{field: messages} of what the fields themselves do not find."""
        unknown = sorted(set(map(str, data)) - set(self.fields))
        if not unknown:
            return {}
        known = {"names": ", ".join(self.fields)}
        message = _("Unknown; known here: %(names)s.") % known
        return dict.fromkeys(unknown[:MOST_TOLD], [message])


def data_of(request: Request) -> Any:
    """The body as JSON, {} where none came. Raises LengthNeeded (411) in pieces."""
    refuse_pieces(request)
    return request.data


def read(request: Request, kind: type[Body] | Body) -> dict[str, Any]:
    """The body, checked. Raises ValidationError (answered 422, naming the field).

    A `Body` made beforehand keeps nothing of a request, so requests may share it.
    """
    if isinstance(kind, Body):
        return kind.run_validation(data_of(request))
    body = kind(data=data_of(request))
    body.is_valid(raise_exception=True)
    return body.validated_data


class FieldErrorSerializer(serializers.Serializer):
    field = serializers.CharField()
    message = serializers.CharField()


class ProblemSerializer(serializers.Serializer):
    """RFC 9457, with a `code` that programs can tell errors by."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    errors = FieldErrorSerializer(many=True, required=False)


_MEANINGS = {
    400: "The body or a parameter could not be read.",
    401: "No token, or one that is not known.",
    403: "Your role does not allow this.",
    404: "Nothing here that you may see.",
    409: "Not in the state that things are in.",
    410: "Too late.",
    411: "The body came without its length.",
    413: "The body is too large.",
    415: "The body is of a type that is not understood.",
    422: "A field is wrong; it is named.",
    503: "The model server or the database is away; try again.",
}


def problems(*statuses: int, **meanings: str) -> dict[Any, OpenApiResponse]:
    """The errors of a call for its schema; `p409="…"` explains.

    401 belongs to all; whatever reads a body (415) also minds its length (411, 413).
    """
    explained = {int(name[1:]): text for name, text in meanings.items()}
    length = (411, 413) if 415 in statuses else ()
    return {
        (status, "application/problem+json"): OpenApiResponse(
            ProblemSerializer, explained.get(status, _MEANINGS[status])
        )
        for status in sorted({401, *length, *statuses, *explained})
    }


class Pages(pagination.PageNumberPagination):
    """{count, next, results}; `?page=2&page_size=…`."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500

    def get_paginated_response(self, data: Any) -> Response:
        assert self.page is not None
        return Response(
            {
                "count": self.page.paginator.count,
                "next": self.get_next_link(),
                "results": data,
            }
        )

    def get_paginated_response_schema(self, schema: dict) -> dict:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["count", "next", "results"],
            "properties": {
                "count": {"type": "integer"},
                "next": link,
                "results": schema,
            },
        }


# The schema finds pages of a list by itself only where no problem is listed before it.
PAGES = [
    OpenApiParameter(
        "page", OpenApiTypes.INT, description="from 1; beyond the last: 404"
    ),
    OpenApiParameter(
        "page_size",
        OpenApiTypes.INT,
        default=Pages.page_size,
        description=f"1 to {Pages.max_page_size}",
    ),
]


def paged(request: Request, view: Any, queryset: Any, kind: Any, **context: Any):
    """One page of a queryset, each row through the serializer `kind`."""
    pages = Pages()
    rows = pages.paginate_queryset(queryset, request, view=view)
    context = {"request": request, **context}
    return pages.get_paginated_response(kind(rows, many=True, context=context).data)

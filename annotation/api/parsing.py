"""How bodies are read, and what may be answered with.

JSON for every call but the import, whose body is handed on as a stream.
"""

import codecs
import json
from io import BytesIO
from typing import IO, Any

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.exceptions import APIException, ParseError, UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser, JSONParser, get_encoding
from rest_framework.utils.json import strict_constant

from annotation.files.faults import MAX_ROW_DEPTH, BadRow
from annotation.files.tables import depth, unique


class TooLarge(APIException):
    status_code = 413
    default_code = "content_too_large"


class LengthNeeded(APIException):
    status_code = 411
    default_code = "length_required"


class SafeJSONParser(JSONParser):
    """JSON, where a body nested without end is a client's error like any other, and a
    key that comes twice as well: of two verdicts neither is the one that was meant."""

    def parse(self, stream, media_type=None, parser_context=None):
        text = codecs.getreader(get_encoding(parser_context or {}))(stream)
        try:
            data = json.load(
                text, parse_constant=strict_constant, object_pairs_hook=unique
            )
        except BadRow as doubled:
            raise ParseError(f"JSON: {doubled}") from None
        except RecursionError:
            raise ParseError(_("The JSON is nested too deeply.")) from None
        except ValueError as wrong:
            raise ParseError(f"JSON parse error - {wrong}") from None
        if depth(data) > MAX_ROW_DEPTH:
            # Deeper, what checks or keeps it would run out of stack.
            raise ParseError(_("The JSON is nested too deeply."))
        return data


class RawBodyParser(BaseParser):
    """The body as it comes, a line at a time: never in memory as a whole."""

    media_type = "*/*"

    def parse(self, stream: IO[bytes], media_type=None, parser_context=None):
        if (media_type or "").startswith("multipart/"):
            raise UnsupportedMediaType(
                media_type,
                _("Send the file itself as the body (curl --data-binary @FILE)."),
            )
        return stream


def refuse_pieces(request: Any) -> None:
    """411 for a body sent in pieces (chunked).

    It has no length, so Django reads it as empty: a round would start without what
    was asked of it.
    """
    if "chunked" in request.META.get("HTTP_TRANSFER_ENCODING", "").lower():
        raise LengthNeeded(_("Send the body with its Content-Length, not in pieces."))


def stream_of(request: Any) -> Any:
    """The body as RawBodyParser hands it on: 413 above UPLOAD_MAX_BYTES, before a byte of
    it is read; 411 in pieces."""
    refuse_pieces(request)
    most = settings.UPLOAD_MAX_BYTES
    if int(request.META.get("CONTENT_LENGTH") or 0) > most:
        raise TooLarge(
            _("The body is larger than %(most)d bytes; send it in parts.")
            % {"most": most}
        )
    # An empty body has no stream.
    return request.data if hasattr(request.data, "readline") else BytesIO()


class OneAnswer(DefaultContentNegotiation):
    """For a download: it comes as its `format=` says, whatever Accept does."""

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], renderers[0].media_type

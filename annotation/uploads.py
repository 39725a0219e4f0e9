"""An upload that is too large, or that nobody asked for, is read past and never stored."""

from typing import Any

from django.conf import settings
from django.core.files.uploadhandler import FileUploadHandler

TAKE_FILES = ("imports", "gold")
"""Names of the addresses whose forms have a file."""


class Capped(FileUploadHandler):
    """Lets nothing through of a request above IMPORT_MAX_BYTES (the form says why), nor
    where no file is asked for: the body is read before a view sees who sent it."""

    is_refused = False

    def handle_raw_input(
        self, input_data: Any, META: Any, content_length: int, *rest: Any
    ) -> None:
        too_large = content_length > settings.IMPORT_MAX_BYTES
        self.is_refused = too_large or not _takes_files(self.request)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        return None if self.is_refused else raw_data

    def file_complete(self, file_size: int) -> None:
        return None


def _takes_files(request: Any) -> bool:
    match = request.resolver_match
    is_asked_for = match is not None and match.url_name in TAKE_FILES
    return is_asked_for and request.user.is_authenticated


def is_too_large(request: Any) -> bool:
    return int(request.META.get("CONTENT_LENGTH") or 0) > settings.IMPORT_MAX_BYTES

"""An upload that is too large is read past and never stored."""

from typing import Any

from django.conf import settings
from django.core.files.uploadhandler import FileUploadHandler


class Capped(FileUploadHandler):
    """Lets nothing through of a request above IMPORT_MAX_BYTES; the form says why."""

    is_too_large = False

    def handle_raw_input(
        self, input_data: Any, META: Any, content_length: int, *rest: Any
    ) -> None:
        self.is_too_large = content_length > settings.IMPORT_MAX_BYTES

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes | None:
        return None if self.is_too_large else raw_data

    def file_complete(self, file_size: int) -> None:
        return None


def is_too_large(request: Any) -> bool:
    return int(request.META.get("CONTENT_LENGTH") or 0) > settings.IMPORT_MAX_BYTES

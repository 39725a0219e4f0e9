"""Errors and paths in words for people, without the folders of the machine."""

import re
from pathlib import Path

from django.conf import settings

FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+")
"""What stands before a file's name in an absolute path, but not in a URL."""


def shown(path: str | Path) -> str:
    """Relative to DATA_DIR, else the name alone."""
    path = Path(path)
    try:
        return str(path.relative_to(settings.DATA_DIR))
    except ValueError:
        return path.name


def told(fault: Exception) -> str:
    """Of the operating system's errors what is wrong and with which file; others as
    they are."""
    if not isinstance(fault, OSError):
        return str(fault)
    if fault.strerror is None:  # safetensors and shutil raise such, with paths.
        return FOLDERS.sub("", str(fault))
    if not isinstance(fault.filename, str | Path):
        return fault.strerror
    return f"{fault.strerror}: {shown(fault.filename)}"

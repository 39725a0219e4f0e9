"""Stored HTML of an older renderer made anew, some rows at a time.

Nothing waits for it: a page renders what is out of date by itself (pages.py); this only
spares it the work. Stopped half-way it goes on where it was, as rows say what made them.
"""

from django.db import transaction
from django.db.models import QuerySet

from annotation.models import Completion
from annotation.rendering import RENDERER_VERSION, render_markdown

BATCH = 200
"""Some two seconds' work, of which the transaction takes a few milliseconds."""


def outdated() -> QuerySet[Completion]:
    """Answers whose HTML an older renderer made."""
    return Completion.objects.filter(html_version__lt=RENDERER_VERSION)


def rerender_some(most: int = BATCH) -> int:
    """Render at most so many outdated answers; how many there were to do."""
    rows = list(outdated().order_by("html_version").values_list("pk", "text")[:most])
    # Rendered outside the transaction: on SQLite it keeps everybody else from writing.
    rendered = [(pk, render_markdown(text)) for pk, text in rows]
    with transaction.atomic():
        for pk, html in rendered:
            outdated().filter(pk=pk).update(html=html, html_version=RENDERER_VERSION)
    return len(rows)

"""Exports as streamed answers, the same for pages and API, annotation's and training's."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import QueryDict, StreamingHttpResponse
from django.utils.translation import gettext as _

from annotation import (
    dataset_folder,
    export_filters,
    export_rows,
    exporting,
)
from annotation.access import at_least
from annotation.errors import ExportRefused
from annotation.export_filters import Wanted
from annotation.files import columns
from annotation.files.writing import TABLES, TYPES, written
from annotation.models import Project, Role

PAIR_FORMATS = (*sorted(exporting.FORMATS), "csv", "parquet")
PARAMETERS = ("format", *export_filters.NAMES, "names")
"""All that a download may be asked with; each takes those that mean something to it."""
PIECE = 32 * 1024
"""Bytes written to the socket together, at least."""


def pairs(
    project: Project,
    params: Mapping[str, str],
    within: QuerySet | None = None,
    *,
    user: Any = None,
    role: str | None = None,
) -> StreamingHttpResponse:
    """The pairs asked for, in `params["format"]`. Raises ExportRefused."""
    format = _one_of(params, PAIR_FORMATS, "trl")
    asked = _asked(params, project, user, role)
    found = export_filters.pairs(project, asked, within)
    if format in exporting.FORMATS:
        content: Iterable[str | bytes] = exporting.jsonl(found, format)
        if format == "kto" and not asked.is_of_pairs and within is None:
            beside = export_filters.beside(project, asked)
            content = chain(content, exporting.labelled_beside(*beside))
    else:
        content = written(export_rows.pair_table(found), columns.PAIRS, format)
    return _file(project, "pairs", format, content)


def judgments(
    project: Project, params: Mapping[str, str], role: str, user: Any = None
) -> StreamingHttpResponse:
    """The standing judgments. Raises ExportRefused, PermissionDenied for names."""
    format = _one_of(params, TABLES, "jsonl")
    asked = _asked(params, project, user, role)
    found = export_filters.judgments(project, asked)
    rows = export_rows.judgment_rows(found, with_names=_with_names(params, role))
    content = written(rows, columns.JUDGMENTS, format)
    return _file(project, "judgments", format, content)


def prompts(
    project: Project,
    params: Mapping[str, str],
    *,
    user: Any = None,
    role: str | None = None,
) -> StreamingHttpResponse:
    format = _one_of(params, TABLES, "jsonl")
    asked = _asked(params, project, user, role)
    found = export_filters.prompts(project, asked)
    content = written(export_rows.prompt_rows(found), columns.PROMPTS, format)
    return _file(project, "prompts", format, content)


def dataset(
    project: Project,
    params: Mapping[str, str],
    role: str,
    within: QuerySet | None = None,
    *,
    user: Any = None,
) -> StreamingHttpResponse:
    """All of it as a folder for `datasets.load_dataset`, zipped."""
    asked = _asked(params, project, user, role)
    with_names = _with_names(params, role)
    if asked.judge and not with_names:
        # The card says what was asked for; beside the rows a name would tell whose they are.
        hidden = export_rows.pseudonym(project.pk, asked.judge)
        asked = replace(asked, annotator=hidden)
    content = dataset_folder.folder(project, asked, within, with_names=with_names)
    return _file(project, "dataset", "zip", content)


def _asked(
    params: Mapping[str, str], project: Project, user: Any, role: str | None
) -> Wanted:
    """Raises ExportRefused for a name that is none, too, or is there twice: a misspelt
    filter that narrows nothing would hand out more than was asked for."""
    for name in params:
        if name not in PARAMETERS:
            raise ExportRefused(
                name[:40],
                _("There is no parameter “%(name)s”; these are: %(known)s.")
                % {"name": name[:40], "known": ", ".join(PARAMETERS)},
            )
        if isinstance(params, QueryDict) and len(params.getlist(name)) > 1:
            raise ExportRefused(
                name, _("“%(name)s” comes twice; give it once.") % {"name": name}
            )
    return export_filters.wanted(params, project, user=user, role=role)


def _one_of(params: Mapping[str, str], known: Iterable[str], usual: str) -> str:
    format = params.get("format", usual)
    if format not in known:
        raise ExportRefused(
            "format",
            _("There is no format “%(format)s”; these are: %(known)s.")
            % {"format": format[:40], "known": ", ".join(known)},
        )
    return format


def _with_names(params: Mapping[str, str], role: str) -> bool:
    asked = params.get("names") in ("1", "on", "true")
    if asked and not at_least(role, Role.MANAGER):
        raise PermissionDenied(_("Only a manager may export annotators' names."))
    return asked


def _file(
    project: Project, what: str, format: str, content: Iterable[str | bytes]
) -> StreamingHttpResponse:
    kind = TYPES.get(format, TYPES["jsonl"])
    name = export_rows.file_name(project, what, format)
    return StreamingHttpResponse(
        _in_pieces(content),
        content_type=kind,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _in_pieces(content: Iterable[str | bytes]) -> Iterator[bytes]:
    """Lines put together: a write to the socket for each would be most of the work."""
    pieces: list[bytes] = []
    size = 0
    for piece in content:
        data = piece.encode() if isinstance(piece, str) else piece
        pieces.append(data)
        size += len(data)
        if size >= PIECE:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)

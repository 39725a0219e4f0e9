"""Large files, taken in by a worker while a page shows how far it is.

A job's row is the truth. A worker claims it with a new epoch and stores batch by batch,
the counts in the same transaction; a batch of an epoch that is over, or of a job that
was cancelled, is rolled back whole. The file is read in the same order each time, so
whoever goes on skips what is done, and nothing is doubled.
"""

import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from annotation import importing, storing
from annotation.batches import in_batches
from annotation.clocks import not_lately
from annotation.dataset_folder import holds_no_new_pair, holds_no_prompt
from annotation.errors import ImportRefused, ImportState
from annotation.files import compared, tables
from annotation.files import messages as chats
from annotation.files.faults import BadRow, Placed, Row, shown
from annotation.files.pair_reading import is_pair, told_apart
from annotation.files.pair_rows import Labelled, PairRow
from annotation.files.parts import Reading
from annotation.models import ImportFault, ImportJob, Project
from annotation.nudging import send

logger = logging.getLogger(__name__)
State = ImportJob.State

SILENT_AFTER = timedelta(seconds=60)
"""A running job whose worker has not been heard of for so long is gone on with."""
MOST_ATTEMPTS = 3
"""Workers that may die over a job, one after another, without a row being stored."""
KEPT_FOR = timedelta(days=7)
"""Files of jobs that nobody started, or that were stopped and left."""
PREVIEW_ROWS = 200
PREVIEW_BYTES = 8 * 1024**2
"""Read for a preview at most, and the row then at hand: a web process holds these rows,
and JSON takes up to thirty times its length."""
SHOWN_ROWS = 8
SKIPPED_A_BEAT = 5000

FIELDS = {
    "prompts": ("prompt", "messages"),
    "pairs": (
        *("prompt", "chosen", "rejected", "system", "weight"),
        *("completion", "label"),
        *(*compared.OURS, compared.WINNER),
    ),
}
"""What a column can be said to be."""
FIELD_LABELS = {
    "prompt": gettext_lazy("Prompt"),
    "messages": gettext_lazy("Messages"),
    "chosen": gettext_lazy("Chosen"),
    "rejected": gettext_lazy("Rejected"),
    "system": gettext_lazy("System prompt"),
    "weight": gettext_lazy("Weight"),
    "completion": gettext_lazy("Answer (KTO)"),
    "label": gettext_lazy("Label (KTO)"),
    "answer_a": gettext_lazy("First answer"),
    "answer_b": gettext_lazy("Second answer"),
    "winner": gettext_lazy("Which answer is better"),
}


class Overtaken(Exception):
    """The job is no longer this worker's: cancelled, or another took it over."""


# --- Making ------------------------------------------------------------------------------
def receive(project: Project, by: Any, upload: UploadedFile) -> ImportJob:
    """Keep an uploaded file until it is imported. Raises ImportRefused."""
    # Of its name the part that says what it holds, nothing that a path could be made of.
    is_jsonl = tables.is_named_jsonl(upload.name or "")
    with _own_folder() as folder:
        path = folder / ("upload.jsonl" if is_jsonl else "upload")
        source = getattr(upload, "temporary_file_path", None)
        if source is not None:
            shutil.move(source(), path)
        else:
            with path.open("wb") as file:
                for chunk in upload.chunks():
                    file.write(chunk)
        return _make(project, by, shown(upload.name or "file"), path)


def receive_text(project: Project, by: Any, text: str) -> ImportJob:
    """The same for pasted lines, which have no name."""
    with _own_folder() as folder:
        path = folder / "upload"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        return _make(project, by, "", path)


def from_server(project: Project, by: Any, name: str) -> ImportJob:
    """A file or folder below IMPORT_DIR; it stays there. Raises ImportRefused."""
    path = server_path(name)
    return _make(project, by, shown(name.strip("/")), path, is_ours=False)


def server_path(name: str) -> Path:
    """Where `name` leads, links followed: only below IMPORT_DIR. Raises ImportRefused."""
    if not settings.IMPORT_DIR:
        raise ImportRefused(_("This server has no folder to import from."))
    root = Path(settings.IMPORT_DIR).resolve()
    try:
        path = (root / name.strip().lstrip("/")).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        path = root
    is_below = path != root and path.is_relative_to(root)
    if not is_below or not (path.is_file() or path.is_dir()):
        raise ImportRefused(
            _("There is no such file or folder below the import folder.")
        )
    return path


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for one upload, gone again where that fails: without a row nothing would
    ever remove it. Raises ImportRefused where the disk is full, say."""
    folder = settings.IMPORTS_DIR / uuid.uuid4().hex
    try:
        folder.mkdir(mode=0o700, parents=True)
        yield folder
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise ImportRefused(
            _("The file could not be kept on the server (%(why)s).")
            % {"why": error.strerror or error}
        ) from error


def _make(
    project: Project, by: Any, name: str, path: Path, *, is_ours: bool = True
) -> ImportJob:
    job = ImportJob(
        project=project, by=by, name=name[-200:], path=str(path), is_ours=is_ours
    )
    job.size = path.stat().st_size if path.is_file() else 0
    # What can't be read the preview says; there another kind may help.
    with suppress(ImportRefused):
        job.kind = preview(job).kind_found
    job.save()
    return job


# --- Looking at it first -----------------------------------------------------------------
@dataclass
class Preview:
    kind_found: str = "prompts"
    columns: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    items: list[importing.Item] = field(default_factory=list)
    """The first ones: place and Messages, PairRow, Labelled or BadRow."""
    n_good: int = 0
    n_bad: int = 0
    is_all: bool = False
    """Whether the file ends within the rows looked at."""


def preview(job: ImportJob, kind: str = "", mapping: dict | None = None) -> Preview:
    """What the first rows come to. Raises ImportRefused."""
    mapping = job.mapping if mapping is None else mapping
    # Without `needs`: a CSV without our columns is what a mapping is for.
    reading, rows, is_all = _reading(job, kind), [], True
    for placed in importing.opened(reading):
        if len(rows) == PREVIEW_ROWS or rows and reading.unpacked > PREVIEW_BYTES:
            is_all = False
            break
        rows.append(placed)
    found = Preview(is_all=is_all)
    for _place, row in rows:
        if not isinstance(row, BadRow):
            found.columns += [
                name
                for name in row
                if name not in found.columns and name == shown(name)
            ]
            if is_pair(row) or compared.is_compared(row):
                found.kind_found = "pairs"
    del found.columns[100:]
    kind = kind or found.kind_found
    mapped = list(_mapped(rows, mapping))
    items = list(importing.items_of(kind, mapped))
    found.formats = _formats(mapped, items)
    bad = [one for one in items if isinstance(one[1], BadRow)]
    good = [one for one in items if not isinstance(one[1], BadRow)]
    found.n_good, found.n_bad = len(good), len(bad)
    found.items = (good[: max(SHOWN_ROWS - len(bad), 4)] + bad)[:SHOWN_ROWS]
    return found


def _formats(rows: list[Placed], items: list[importing.Item]) -> list[str]:
    """What their rows are, each once: two answers and a winner, or a format of pairs."""
    compares = {
        place
        for place, row in rows
        if not isinstance(row, BadRow) and not told_apart(row)
        if compared.is_compared(row)
    }
    formats = (
        "compared" if place in compares else item.format
        for place, item in items
        if isinstance(item, PairRow | Labelled)
    )
    return list(dict.fromkeys(formats))


def _reading(job: ImportJob, kind: str = "") -> Reading:
    is_prompts = (kind or job.kind) == "prompts"
    return Reading(
        Path(job.path),
        most=settings.IMPORT_MAX_UNPACKED_BYTES,
        longest=importing.MAX_PROMPT_LINE if is_prompts else importing.MAX_PAIR_LINE,
        scratch=Path(job.path).parent if job.is_ours else None,
        skips=holds_no_prompt if is_prompts else holds_no_new_pair,
    )


def _mapped(rows: Any, mapping: dict[str, str]) -> Iterator[Placed]:
    """Each column under the name that the manager gave it."""
    for place, row in rows:
        if mapping and not isinstance(row, BadRow):
            row = _renamed(row, mapping)
        yield place, row


def _renamed(row: Row, mapping: dict[str, str]) -> Row:
    named = {n: row[c] for n, c in mapping.items() if c and c in row}
    moved = set(mapping.values())
    return {n: v for n, v in row.items() if n not in moved and n not in mapping} | named


def mapping_of(
    kind: str, data: Mapping[str, str], columns: list[str]
) -> dict[str, str]:
    """{our name: column} of a form's `map_…` values; what the file lacks is left out.

    A prompt is one column: where it is named, the other that could be it is no column.
    """
    asked = {name: data.get(f"map_{name}", "") for name in FIELDS[kind]}
    named = {n: c for n, c in asked.items() if c in columns}
    if kind == "prompts" and len(named) == 1:
        return {name: named.get(name, "") for name in FIELDS[kind]}
    return {n: c for n, c in named.items() if c != n}


# --- Starting, stopping ------------------------------------------------------------------
def start(job: ImportJob, kind: str = "", mapping: dict | None = None) -> None:
    """Queue it, or go on with one that was stopped. Raises ImportState."""
    changes: dict[str, Any] = {"state": State.QUEUED, "error": "", "finished_at": None}
    changes["attempts"] = 0
    allowed = [*ImportJob.STOPPED]
    if job.state == State.PREVIEW:
        # Once begun, another kind or mapping would make its counts untrue.
        allowed = [State.PREVIEW]
        changes |= {"kind": kind or job.kind, "mapping": mapping or {}}
    if not job.path or not Path(job.path).exists():
        raise ImportState(_("The file is gone. Upload it again; nothing is doubled."))
    if not ImportJob.objects.filter(pk=job.pk, state__in=allowed).update(**changes):
        raise ImportState(_("This import has been started already."))
    transaction.on_commit(partial(_nudge, job.pk), robust=True)


def _nudge(job_id: int) -> None:
    from annotation.tasks import run_import  # It imports this module.

    send(run_import, job_id)


def cancel(job: ImportJob) -> None:
    """Stop it after the batch in hand; what is in stays. One never started is let go."""
    now = timezone.now()
    waiting = [State.PREVIEW, *ImportJob.ACTIVE]
    found = ImportJob.objects.filter(pk=job.pk, state__in=waiting)
    if not found.update(state=State.CANCELLED, finished_at=now):
        raise ImportState(_("This import has ended already."))
    if job.state == State.PREVIEW:
        remove_file(job)


def remove_file(job: ImportJob) -> None:
    """Remove what was uploaded; never what lies on the server by itself."""
    folder = Path(job.path).parent
    if job.is_ours and folder.parent == settings.IMPORTS_DIR:
        shutil.rmtree(folder, ignore_errors=True)


# --- Doing it ----------------------------------------------------------------------------
def run(job_id: int) -> None:
    """Claim the job if it waits (or its worker is silent), and bring it to an end."""
    now = timezone.now()
    claimed = ImportJob.objects.filter(_is_free(), pk=job_id).update(
        state=State.RUNNING,
        epoch=F("epoch") + 1,
        attempts=F("attempts") + 1,
        heartbeat_at=now,
    )
    if not claimed:
        return
    job = ImportJob.objects.select_related("project").get(pk=job_id)
    ImportJob.objects.filter(pk=job_id, started_at=None).update(started_at=now)
    if job.attempts > MOST_ATTEMPTS:
        # Else it would end one worker after another for ever, and what they were at.
        _fail(
            job,
            gettext_noop(
                "The worker was ended several times at the same place of the file;"
                " memory is the usual reason."
            ),
        )
        return
    try:
        _take_in(job)
        _write(job, state=State.DONE, share=1.0, finished_at=timezone.now())
    except Overtaken:
        logger.info("Import %d was stopped or taken over", job_id)
        return
    except ImportRefused as refused:
        _fail(job, refused.message)
        return
    except Exception:
        logger.exception("Import %d failed", job_id)
        _fail(
            job,
            gettext_noop("Something went wrong on the server; its log says what."),
        )
        return
    remove_file(job)
    if job.kind == ImportJob.Kind.PAIRS:
        from annotation.tasks import check_pairs

        send(check_pairs, expires=10)


def _is_free() -> Q:
    """Of jobs that wait, or whose worker is silent."""
    silent = not_lately("heartbeat_at", SILENT_AFTER)
    return Q(state=State.QUEUED) | Q(silent, state=State.RUNNING)


def _fail(job: ImportJob, reason: str) -> None:
    now = timezone.now()
    try:
        _write(job, state=State.FAILED, error=reason[:500], finished_at=now)
    except Overtaken:
        logger.info("Import %d had been taken over when it failed", job.pk)


def _take_in(job: ImportJob) -> None:
    reading = _reading(job)
    rows = _mapped(importing.opened(reading), job.mapping)
    items = importing.items_of(job.kind, rows)
    _skip(job, items)
    for batch in in_batches(items, importing.batch_size(job.kind)):
        _store(job, batch, reading.share)


def _skip(job: ImportJob, items: Iterator[Any]) -> None:
    """Pass over what an earlier worker stored, being heard of meanwhile."""
    for start in range(0, job.items_done, SKIPPED_A_BEAT):
        count = min(SKIPPED_A_BEAT, job.items_done - start)
        for _item in islice(items, count):
            pass
        _write(job, heartbeat_at=timezone.now())


def _store(job: ImportJob, batch: list[importing.Item], share: float) -> None:
    good = [item for _place, item in batch if not isinstance(item, BadRow)]
    with transaction.atomic():
        # First: takes the row's lock, and ends here if the job is no longer ours.
        _write(job, heartbeat_at=timezone.now(), share=share)
        stored = storing.store(job.project, job.kind, good)
        _keep_faults(job, batch)
        _write(
            job,
            attempts=0,
            items_done=F("items_done") + len(batch),
            accepted=F("accepted") + stored.accepted,
            duplicates=F("duplicates") + stored.duplicates,
            labelled=F("labelled") + stored.labelled,
            rejected=F("rejected") + len(batch) - len(good),
        )
    job.items_done += len(batch)
    job.rejected += len(batch) - len(good)


def _write(job: ImportJob, **changes: Any) -> None:
    """Change the row while this worker's epoch is the one. Raises Overtaken."""
    mine = ImportJob.objects.filter(pk=job.pk, epoch=job.epoch, state=State.RUNNING)
    if not mine.update(**changes):
        raise Overtaken


def _keep_faults(job: ImportJob, batch: list[importing.Item]) -> None:
    room = max(0, importing.MAX_REPORTED - job.rejected)
    faults = [
        ImportFault(
            job=job,
            number=job.items_done + place,
            part=shown(part)[-200:],
            line=line,
            reason=str(item)[:500],
        )
        for place, ((part, line), item) in enumerate(batch)
        if isinstance(item, BadRow)
    ]
    ImportFault.objects.bulk_create(faults[:room])


# --- Tending -----------------------------------------------------------------------------
def tend() -> None:
    """For the beat: go on with what waits or fell silent; remove what was left."""
    now = timezone.now()
    for pk in ImportJob.objects.filter(_is_free()).values_list("pk", flat=True):
        _nudge(pk)
    left = ImportJob.objects.filter(
        # One that is done, too: its worker may have died before it removed the file.
        state__in=[State.PREVIEW, State.DONE, *ImportJob.STOPPED],
        is_ours=True,
        created_at__lt=now - KEPT_FOR,
    ).exclude(path="")
    for job in left:
        remove_file(job)
        ImportJob.objects.filter(pk=job.pk).update(path="")


def text_of(item: Any) -> dict[str, str]:
    """A good item of a preview in a few words: what each of its parts says."""
    if isinstance(item, PairRow):
        parts = {name: getattr(item, name) for name in ("prompt", "chosen", "rejected")}
    elif isinstance(item, Labelled):
        parts = {
            "prompt": item.prompt,
            "good" if item.label else "bad": item.completion,
        }
    else:
        parts = {"prompt": item}
    return {
        name: " ⏎ ".join(
            (f"{m['role']}: " if len(turns) > 1 else "") + chats.plain(m) for m in turns
        )
        for name, turns in parts.items()
    }

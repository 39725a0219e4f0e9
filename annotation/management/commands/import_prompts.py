"""`manage.py import_prompts --project SLUG FILE`: as the page and the API do it."""

from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from annotation.errors import ImportRefused
from annotation.importing import import_prompts
from annotation.models import Project


class Command(BaseCommand):
    help = "Import prompts from a JSONL or CSV file; bad lines are reported."

    def add_arguments(self, parser):
        parser.add_argument("--project", required=True, metavar="SLUG")
        parser.add_argument("file", type=Path, help="UTF-8, gzipped or not")
        parser.add_argument(
            "--format",
            choices=["jsonl", "csv"],
            help="told by the file's name, else by how it begins, if left out",
        )

    def handle(self, *, project, file, format, **options):
        try:
            found = Project.objects.get(slug=project)
        except Project.DoesNotExist:
            slugs = ", ".join(Project.objects.values_list("slug", flat=True))
            raise CommandError(
                f"There is no project “{project}”. There are: {slugs or 'none'}."
            ) from None
        try:
            with file.open("rb") as stream:
                report = import_prompts(found, stream, format or _format_of(file))
        except OSError as error:
            raise CommandError(f"{file} can't be read: {error.strerror}.") from None
        except ImportRefused as refused:
            raise CommandError(refused.message) from None
        for rejected in report.rejected:
            self.stderr.write(f"line {rejected.line}: {rejected.reason}")
        if report.rejected_more:
            self.stderr.write(f"… and {report.rejected_more} more")
        self.stdout.write(
            f"{report.accepted} imported, {report.duplicates} duplicates, "
            f"{len(report.rejected) + report.rejected_more} rejected"
        )


def _format_of(file):
    return {".csv": "csv", ".jsonl": "jsonl"}.get(file.suffix.lower())

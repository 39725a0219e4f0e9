"""Render stored answers anew after an upgrade changed the renderer; see operators.md.

The beat does the same, 200 answers every 30 s; this does it now and says how far it is.
"""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from annotation import rerendering


class Command(BaseCommand):
    help = "Render stored answers anew after an upgrade changed the renderer."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--batch",
            type=int,
            default=rerendering.BATCH,
            help="answers per transaction (default %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        total = rerendering.outdated().count()
        done = 0
        while count := rerendering.rerender_some(max(1, options["batch"])):
            done += count
            self.stdout.write(f"{done} of {max(done, total)} answers rendered")
        if not done:
            self.stdout.write("Every answer is up to date.")

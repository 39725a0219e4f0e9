"""Heal what a crash left half done: what the beat does, by hand or without a beat.

manage.py reconcile --once      one look
manage.py reconcile             every 15 seconds, until Ctrl-C
"""

import contextlib
import time
from argparse import ArgumentParser

from django.core.management.base import BaseCommand, no_translations
from django.db import close_old_connections

from training.reconcile import reconcile

EVERY = 15.0


class Command(BaseCommand):
    help = "Queue lost rounds again, finish half-published ones, deploy what waits."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="look once and end")

    @no_translations
    def handle(self, *args: str, once: bool, **options: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                done = reconcile()
                words = ", ".join(f"{name} {count}" for name, count in done.items())
                self.stdout.write(words)
                if once:
                    return
                close_old_connections()
                time.sleep(EVERY)

"""Keep vLLM running, with the policies that serve; see inference/supervisor.py."""

import fcntl
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, no_translations

from inference.base import ensure_base
from inference.errors import InferenceError
from inference.supervisor import StopRequest, supervise


class Command(BaseCommand):
    help = (
        "Runs vLLM on this machine and keeps it in the state wanted in the database. "
        "With VLLM_URLS it runs none, but gives those servers their adapters back. "
        "Ctrl-C or SIGTERM ends it after the answers under way, a second one at once."
    )
    # The URLs and all they import are no concern of it.
    requires_system_checks: list[str] = []

    @no_translations
    def handle(self, *args: Any, **options: Any) -> None:
        settings.DATA_DIR.mkdir(parents=True, exist_ok=True)
        with (settings.DATA_DIR / "run_vllm.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CommandError(
                    "manage.py run_vllm already runs for this DATA_DIR."
                ) from error
            stop = StopRequest()
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, stop)
            try:
                supervise(ensure_base(fetch=True), stop)
            except InferenceError as error:
                raise CommandError(str(error)) from error

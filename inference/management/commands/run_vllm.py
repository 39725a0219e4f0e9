"""Keep vLLM running, with the policies that serve; see inference/supervisor.py."""

import fcntl
import shlex
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    no_translations,
)

from inference.base import ensure_base
from inference.errors import InferenceError
from inference.server import vllm_command
from inference.supervisor import StopRequest, supervise


class Command(BaseCommand):
    help = (
        "Runs vLLM on this machine and keeps it in the state wanted in the database. "
        "With VLLM_URLS it runs none, but gives those servers their adapters back. "
        "Ctrl-C or SIGTERM ends it after the answers under way, a second one at once."
    )
    # The URLs and all they import are no concern of it.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--show",
            action="store_true",
            help="print how a server of VLLM_URLS is started on this machine, and end",
        )

    @no_translations
    def handle(self, *args: Any, show: bool, **options: Any) -> None:
        if show:
            self.show()
            return
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

    def show(self) -> None:
        """One line for a shell; the key is left to the environment."""
        try:
            command = vllm_command(ensure_base(fetch=True), settings.VLLM_PORT)
        except InferenceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 {shlex.join(command)}")

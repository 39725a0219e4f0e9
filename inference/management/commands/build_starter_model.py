"""Builds the starter model under DATA_DIR, in a process of its own.

A subprocess, because Django's processes never import torch. Leaves everything
else to `python -m inference.starter`.
"""

import subprocess
import sys
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _


class Command(BaseCommand):
    help = "Builds the starter model (two to three minutes on two cores)."
    requires_system_checks: list[str] = []

    def handle(self, *args: object, **options: object) -> None:
        target = Path(settings.DATA_DIR).absolute() / "models" / "starter"
        code = subprocess.call(
            [sys.executable, "-m", "inference.starter", str(target)],
            cwd=settings.BASE_DIR,
        )
        if code:
            raise CommandError(
                _("The starter model was not built; the line above says why."),
                returncode=code if code > 0 else 1,
            )

"""Fetch the base model that MODEL names, ahead of whatever needs it."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.base import ensure_base
from inference.errors import InferenceError


class Command(BaseCommand):
    help = (
        "Fetches the base model of MODEL (a hub id; a folder is only looked at) and "
        "prints the folder it lies in. Only safetensors, no code."
    )
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stderr.write(f"Looking for the model {settings.MODEL or 'starter'} …")
        try:
            base = ensure_base(fetch=True)
        except InferenceError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(base.base_model)

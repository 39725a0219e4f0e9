"""Make an API token for a user: prints the token, once, and nothing else.

Only a digest of it is kept. Leaves out taking tokens back, which the admin does.
"""

from argparse import ArgumentTypeError
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from knox.models import AuthToken

from annotation import texts

MOST_DAYS = 3650


def days(text: str) -> timedelta:
    """A whole number of days, at most ten years. Raises ArgumentTypeError."""
    if not (text.isdecimal() and 1 <= int(text) <= MOST_DAYS):
        raise ArgumentTypeError(f"give whole days from 1 to {MOST_DAYS}, not {text!r}")
    return timedelta(days=int(text))


class Command(BaseCommand):
    help = "Make an API token for USERNAME and print it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument(
            "--days",
            type=days,
            metavar="N",
            help="the token ends after N days (else it never does)",
        )

    def handle(self, *args, **options) -> None:
        name = options["username"]
        users = get_user_model().objects.filter(username=name)
        # Bytes that are no UTF-8 come as half characters, which no database may be asked.
        user = None if texts.problem(name) else users.first()
        if user is None:
            raise CommandError(
                f"There is no user “{name}”. Make one in the admin, or with "
                "manage.py createsuperuser."
            )
        if not user.is_active:
            raise CommandError(f"The user “{name}” is not active.")
        _row, token = AuthToken.objects.create(user, expiry=options["days"])
        self.stdout.write(token)

"""`manage.py setup_demo`: the project `demo`, its prompts and its three users.

`--slug NAME` makes one more of the kind, to be trained towards something else. Run
again it changes nothing: what a manager changed stays, passwords aren't made anew.
They are written to DATA_DIR/passwords.txt, readable by the owner alone, before they
are printed, so none is ever lost.
"""

import os
import secrets
from io import BytesIO
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from annotation.errors import SettingsError
from annotation.importing import import_prompts
from annotation.models import Membership, Project, Role
from annotation.projects import create_project
from annotation.texts import canonical
from inference.errors import InferenceError

SLUG = "demo"
USERS = {
    role.value: role.value for role in (Role.MANAGER, Role.REVIEWER, Role.ANNOTATOR)
}

SETTINGS = {
    "stock": 16,
    "auto_deploy": True,
    # The figures in docs/decisions.md were measured at this temperature.
    "sampling": {"temperature": 0.8, "max_tokens": 160},
    # Of some two hundred prompts a tenth would measure a policy by twenty questions.
    "held_out_share": 0.15,
    "round_pairs": 24,
    # Equal floors: unequal ones favour length, and the starter model is terse.
    "rules": {
        "chosen_width": {"min_columns": 20},
        "rejected_width": {"min_columns": 20},
    },
    # One pair an update: halving the updates beyond 33 pairs took politeness from 88 %
    # back to 76 %. So many updates of DPO alone push both answers down and wander off
    # the topic; training on the better answer as well holds it there.
    "round": {
        "preset": "cumulative",
        "config": {
            "beta": 0.2,
            "batch_size": 1,
            "loss": {"sigmoid": 1.0, "sft": 1.0},
        },
    },
}

GUIDELINES = """\
**Pick the answer you would rather get.** Read the question, then both answers to the end.

- The better answer is about the question, correct, and easy to read.
- Take **tie** only if you would really not mind which one you got, and
  **both bad** if you would give neither to anybody.
- Skip what you cannot judge. You can undo until a training round has used a judgment.

**选出您更愿意得到的回答。** 先读问题，再把两个回答都读完。

- 更好的回答切题、正确、易读。
- 只有确实觉得两个都可以时才选**平局**；两个都不愿给别人看时选**都不好**。
- 无法判断的请跳过。在某一轮训练用到您的判断之前，都可以撤销。
"""


class Command(BaseCommand):
    help = "Make the project demo with its prompts and users; again: changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--slug", default=SLUG, help="of another demo project, e.g. demo-short"
        )

    def handle(self, *, slug: str, **options) -> None:
        # Before what may fail: they are made only once.
        if passwords := self._users():
            for username, password in passwords.items():
                self.stdout.write(f"{username}: {password}")
            self.stdout.write(f"Kept in {_passwords_file()}, readable by you alone.")
        try:
            project = self._project(slug)
        except SettingsError as error:
            raise CommandError(f"--{error.field}: {error}") from error
        except InferenceError as error:
            raise CommandError(str(error)) from error
        count = project.prompts.count()
        self.stdout.write(f"Project “{project.slug}” has {count} prompts.")

    def _users(self) -> dict[str, str]:
        """Username and password of those made now."""
        users = get_user_model()
        new = {
            username: secrets.token_urlsafe(9)
            for username in USERS
            if not users.objects.filter(username=username).exists()
        }
        if not new:
            return {}
        _keep(new)
        with transaction.atomic():
            for username, password in new.items():
                user = users.objects.create_user(username, password=password)
                if USERS[username] == Role.MANAGER:
                    # May open the admin and make projects.
                    user.is_staff = user.is_superuser = True
                    user.save(update_fields=["is_staff", "is_superuser"])
        return new

    def _project(self, slug: str) -> Project:
        project = Project.objects.filter(slug=slug).first()
        if project is None:
            name = slug.replace("-", " ").capitalize()
            project = create_project(
                name, None, slug=slug, guidelines=GUIDELINES, settings=SETTINGS
            )
        users = get_user_model().objects.in_bulk(list(USERS), field_name="username")
        if not project.memberships.exists():
            Membership.objects.bulk_create(
                Membership(project=project, user=users[username], role=role)
                for username, role in USERS.items()
            )
        if not project.prompts.exists():
            import_prompts(project, BytesIO(_prompts()), "jsonl")
        return project


def _prompts() -> bytes:
    from inference.demo_prompts import demo_prompts

    return "".join(
        canonical({"prompt": prompt}) + "\n" for prompt in demo_prompts()
    ).encode()


def _passwords_file() -> Path:
    return settings.DATA_DIR / "passwords.txt"


def _keep(passwords: dict[str, str]) -> None:
    """Add them to the file, made with mode 0600, and wait until they are on disk."""
    lines = "".join(f"{name}: {word}\n" for name, word in passwords.items())
    handle = os.open(_passwords_file(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())

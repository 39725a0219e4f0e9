"""The hand-written statements' own ways; what they do is tested where they are used."""

import pytest
from django.db import connection

from annotation import sql

pytestmark = [pytest.mark.django_db, pytest.mark.both_databases]


def test_postgresql_plans_a_statement_once_for_each_connection():
    for number in (1, 2, 3):
        assert sql.rows("SELECT 41 + %s", number) == [(41 + number,)]
    if connection.vendor == "postgresql":
        plans = sql.rows("SELECT statement FROM pg_prepared_statements")
        assert ("SELECT 41 + $1",) in plans


def test_a_percent_sign_and_a_quote_reach_the_database_as_they_are():
    assert sql.rows("SELECT %s", "100 % 'sure' %s") == [("100 % 'sure' %s",)]

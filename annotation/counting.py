"""Counts that are told to somebody and go no further than anybody would read."""

from dataclasses import dataclass

from django.db.models import QuerySet


@dataclass(frozen=True)
class Counted:
    """How many there are: "100+" where there are more than the 100 that are told."""

    number: int
    """Where it is more than `most`, counting stopped soon after."""
    most: int

    @property
    def is_more(self) -> bool:
        return self.number > self.most

    def __bool__(self) -> bool:
        return self.number > 0

    def __str__(self) -> str:
        return f"{self.most}+" if self.is_more else str(self.number)


def counted(rows: QuerySet, most: int) -> Counted:
    """One query that reads `most` + 1 rows at most."""
    return Counted(rows.order_by()[: most + 1].count(), most)

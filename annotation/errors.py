"""Refusals of the annotation services, each with a message for the person.

What status they become is stated here once: pages and API read `status`.
"""

MOST_TOLD = 100
"""Of what is wrong with a call. Nobody reads more, and the answer to 300,000 names that are
not known, which fit into one body, took 1.6 GB."""


class Refused(Exception):
    """A request understood and refused; nothing was changed."""

    status = 409

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


class WrongField(Refused):
    """What was sent is wrong: `field` names where, `errors` are all such (field, message)."""

    status = 422

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field
        self.errors = [(field, message)]


class InvalidJudgment(WrongField):
    """What was submitted makes no judgment; `field` says where."""


class OtherBody(Refused):
    """This lease has a judgment already, with another content."""


class TooLate(Refused):
    """The lease ran out and every slot was taken meanwhile."""

    status = 410


class Frozen(Refused):
    """A training round has taken a pair that comes of this judgment."""


class Settled(Refused):
    """A reviewer has decided this comparison, or it waits for none."""


class NotYours(Refused):
    """Somebody else has to do this: a reviewer doesn't review their own judgment."""

    status = 403


class AlreadyUndone(Refused):
    """The judgment no longer stands."""


class PairsChanged(Refused):
    """A pair to be frozen was superseded or rejected meanwhile."""


class NothingToDo(Refused):
    """The pair is not, or no longer, in a state that this act is for."""


class InvalidRepair(WrongField):
    """A note or an edited answer can't be taken; `field` says which."""


class SettingsError(WrongField):
    """Settings of a project are wrong: `errors` has the dotted name and the message of
    each, `field` and `message` are the first one's."""

    def __init__(self, field: str, message: str, *more: tuple[str, str]):
        super().__init__(field, message)
        self.errors += more


class MembersError(WrongField):
    """A member is wrong; `field` is the username."""


class ImportRefused(Refused):
    """The file as a whole cannot be read; single bad lines are reported instead."""

    status = 422


class GoldRefused(Refused):
    """What would be gold is gold already, or can't be."""


class BadExplanation(WrongField):
    """The explanation of a gold item can't be stored."""


class ExportRefused(WrongField):
    """A parameter of an export is wrong; `field` names it."""


class ImportState(Refused):
    """The import is not in the state that this needs."""

"""Refusals of the training services, each with a sentence for a manager."""


class RoundRefused(Exception):
    """A round cannot start, stop or go on. Nothing was changed.

    `status` is what an HTTP answer should say: 409 (something stands in the way now)
    or 422 (what was asked for cannot be done). `funnel` says where pairs were lost,
    as training.figures.funnel gives it, where that is the reason.
    """

    def __init__(self, message: str, status: int = 409, funnel: list | None = None):
        super().__init__(message)
        self.message = message
        self.status = status
        self.funnel = funnel or []


class StaleRound(Exception):
    """The round is no longer in the state, or no longer owned by the epoch, that a
    write was made for. Whoever raises this must leave the round alone."""


class SimulationError(Exception):
    """Why simulated annotators cannot go on, in a sentence."""

"""The trainer's own exceptions, each carrying a sentence for the person who reads it."""


class TrainerError(Exception):
    """The run cannot go on. The message is one sentence saying what to change."""


class FolderLocked(TrainerError):
    """Another trainer is working in this run folder."""


class Stopped(Exception):
    """A stop was asked for (SIGTERM) and everything worth keeping is on disk."""


class PeerLost(Stopped):
    """Another process of the run was killed; the newest checkpoint is on disk."""


def sentence_of(error: Exception) -> str:
    """How a run's end is told: in our words, or anybody else's first line in quotes."""
    if isinstance(error, TrainerError | Stopped):
        return str(error)
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"An unforeseen error, in its own words: “{type(error).__name__}: {first}”."

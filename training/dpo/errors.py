"""The trainer's own exceptions, each carrying a sentence for the person who reads it."""


class TrainerError(Exception):
    """The run cannot go on. The message is one sentence saying what to change."""


class FolderLocked(TrainerError):
    """Another trainer is working in this run folder."""


class Stopped(Exception):
    """A stop was asked for (SIGTERM) and everything worth keeping is on disk."""


class PeerLost(Stopped):
    """Another process of the run was killed; the newest checkpoint is on disk."""

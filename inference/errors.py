"""What can go wrong between the application and vLLM, as sentences for people."""


class InferenceError(Exception):
    """A model could not answer; `permanent` says that asking again cannot help."""

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class IdenticalAnswers(InferenceError):
    """The policy gave the same answer several times, so there is nothing to compare."""


class DeployRefused(Exception):
    """Why a policy does not serve: one or two sentences for a manager."""


class AdapterRefused(DeployRefused):
    """The policy's own files or answers are wrong: trying again cannot help."""

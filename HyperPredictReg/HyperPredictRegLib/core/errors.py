"""The three ways in which work can end without a result. Every message is a sentence for the user."""


class HyperPredictRegError(Exception):
    """Base of all errors that this library raises on purpose."""


class InputError(HyperPredictRegError, ValueError):
    """An input or option cannot be used: says what is wrong, with which input, and what to do."""


class RegistrationError(HyperPredictRegError, RuntimeError):
    """The inputs were fine but no valid result came out, for example because an optimiser diverged."""


class Cancelled(HyperPredictRegError):  # noqa: N818 - named for what happened; it is not a fault
    """The caller asked to stop. No result was made."""

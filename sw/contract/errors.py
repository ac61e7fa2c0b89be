"""The error that everything raises for bad input."""

__all__ = ["StillnetError"]


class StillnetError(Exception):
    """Bad input. The message is one sentence: what is wrong, with which value, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

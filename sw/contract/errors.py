"""The error that contract checks raise. ``stillnet.sw.contract.errors`` re-exports it for users."""

__all__ = ["StillnetError"]


class StillnetError(Exception):
    """Bad input. The message is one sentence: what is wrong, with which value, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

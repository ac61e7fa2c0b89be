"""The one error that users see; defined in the contract, which imports nothing of ``sw``."""

from .contract.errors import StillnetError

__all__ = ["StillnetError"]

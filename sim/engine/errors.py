"""What can go wrong with an engine in simulation.

A tool that fails while a model is built raises something else.
"""

__all__ = ["EngineFailed", "EngineHang", "EngineMismatch"]


class EngineFailed(RuntimeError):
    """The engine broke a rule of its ports."""


class EngineHang(EngineFailed):
    """The engine is still at work after more cycles than it can need."""


class EngineMismatch(EngineFailed):
    """The engine's integers differ from those of the reference."""

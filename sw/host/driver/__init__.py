"""An engine on a board, from Python: its connection, steps, state and counters."""

from .engine import REFUSALS, ConnectionLost, Engine, RefusedCommand

__all__ = ["REFUSALS", "ConnectionLost", "Engine", "RefusedCommand"]

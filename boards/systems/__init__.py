"""The core in systems of others: what their builders need to take it in."""

__all__ = ["WEIGHTS"]

WEIGHTS = ("core", "bus", "sdram")
"""Where weights are in a LiteX system: in the core, in memory on the system's bus, or in SDRAM by a
port of its own."""

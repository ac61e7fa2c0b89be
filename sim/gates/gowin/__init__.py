"""Gowin: a bitstream turned back into gates, and those into Verilog."""

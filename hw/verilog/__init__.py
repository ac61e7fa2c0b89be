"""Verilog text of an engine, its description, and the command that writes them."""

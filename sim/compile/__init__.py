"""Verilog to a compiled model: Verilator, a C++ compiler, a cache."""

"""Boards: tops, clocks, pins, building and flashing."""

"""Boards that amaranth-boards does not have."""

"""Cycles and words of a network on an engine, predicted."""

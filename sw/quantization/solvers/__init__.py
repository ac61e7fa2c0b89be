"""Rounding of one matrix so that its outputs move least."""

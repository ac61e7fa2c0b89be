"""Measurements in simulation."""

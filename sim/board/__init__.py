"""The virtual board."""

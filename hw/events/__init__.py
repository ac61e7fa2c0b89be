"""Vectors to events: which elements changed, and by how much."""

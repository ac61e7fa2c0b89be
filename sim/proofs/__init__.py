"""Formal proofs."""

"""Compiled simulation, comparison with the reference, proofs, benches."""

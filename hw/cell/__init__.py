"""The cell unit: from sums to a new element of a vector."""

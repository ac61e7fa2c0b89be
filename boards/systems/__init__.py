"""The core in systems of others: what their builders need to take it in."""

"""The driver of a board, and the link below it."""

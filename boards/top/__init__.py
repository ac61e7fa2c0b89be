"""What is around an engine on a board: memory, link, clocks, pins."""

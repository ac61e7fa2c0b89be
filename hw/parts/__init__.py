"""Small parts that all blocks share."""

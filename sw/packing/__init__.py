"""From a network to a memory image, and the engine that it needs."""

"""The parts of a model that run on the host, in front of the chip and behind it."""

"""The engine for small FPGAs: one multiplier after the other, weights on the chip."""

"""The SDRAM controller."""

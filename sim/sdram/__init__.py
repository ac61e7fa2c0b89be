"""The SDRAM controller with a model of the part."""

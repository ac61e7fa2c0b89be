"""Float models: layers, and functions that build them."""

"""What runs on the host: import, quantize, pack, reference, driver, command line."""

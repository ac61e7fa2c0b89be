"""The way in for the host: registers, counters, AXI4-Lite, boot from flash."""

"""From a board to its bitstream: Yosys, nextpnr, packing."""

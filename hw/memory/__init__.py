"""Behind the memory port: AXI4, block RAM, single-port RAM."""

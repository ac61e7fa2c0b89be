// Registers in the IO cells of a routed netlist.

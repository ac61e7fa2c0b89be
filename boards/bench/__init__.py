"""Area and speed, from nextpnr."""

"""The generated engine in a compiled simulation, held against the reference."""

"""Networks of integers: the file, its checks, the reference."""

"""Watching a board beside the program that streams: rates, times, drift, a canary."""

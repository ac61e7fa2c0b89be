"""Tests of the pages: what they tell the reader to type, and what they state."""

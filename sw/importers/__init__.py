"""From files to float models."""
